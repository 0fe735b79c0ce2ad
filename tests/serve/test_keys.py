"""API keys and their files."""

from pathlib import Path

import pytest

from bmqwen.errors import InputError, KeyRefusedError
from bmqwen.serve.http.keys import ApiKeys


def test_keys_of_options_and_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# ours\nfirst-key-1\n\n  second-key-2  \n")
    keys = ApiKeys.read(["third-key-3"], file)
    names = {keys.owner(f"Bearer {key}".encode()) for key in ("first-key-1", "second-key-2", "third-key-3")}
    assert len(names) == 3
    assert keys.owner(b"bearer  first-key-1") in names
    assert not any("key" in name for name in names)
    for wrong in (None, b"", b"Bearer ", b"Bearer # ours", b"Basic first-key-1", b"Bearer first-key-1x"):
        with pytest.raises(KeyRefusedError):
            keys.owner(wrong)


def test_without_keys_everybody_is_welcome() -> None:
    assert not ApiKeys()
    assert ApiKeys().owner(None) == ApiKeys().owner(b"Bearer anything") == ""


@pytest.mark.parametrize("key", ["", "short", "with blank", "schlüssel-lang", "line\nbreak-long"])
def test_keys_that_cannot_be_sent(key: str) -> None:
    with pytest.raises(InputError, match="API key must"):
        ApiKeys([key])


def test_files_that_have_no_keys(tmp_path: Path) -> None:
    empty, binary, short = (tmp_path / name for name in ("empty", "binary", "short"))
    short.write_text("# one a line\n{\n")
    empty.write_text("# nothing\n")
    binary.write_bytes(b"\xff\xfe\x00")
    cases = {
        empty: "has no API key",
        binary: "not text",
        short: rf"at least 8 characters \({short}, line 2\)",
        tmp_path / "no": "No such file",
        tmp_path: "a directory",
    }
    for file, words in cases.items():
        with pytest.raises(InputError, match=words):
            ApiKeys.read([], file)
