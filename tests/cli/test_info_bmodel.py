"""`bmqwen info` on a bmodel that is no bundle."""

from pathlib import Path

import pytest
from program import Run

pytestmark = pytest.mark.simulator


def test_a_foreign_file_is_refused_in_one_line(bmqwen: Run, tmp_path: Path) -> None:
    (tmp_path / "foreign.bmodel").write_bytes(b"not a bmodel" * 100)
    refused = bmqwen("info", tmp_path / "foreign.bmodel", "--json")
    assert refused.returncode in (1, 2)
    assert "Traceback" not in refused.stderr
    assert "foreign.bmodel" in refused.stderr
