"""The command that adds an extra works for the copy that runs, wherever it was installed from."""

import json
import shlex
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from bmqwen.util import installation
from bmqwen.util.installation import install_command


class Noted:
    """A distribution whose installer noted `content` in direct_url.json."""

    def __init__(self, content: str | None) -> None:
        self.content = content

    def read_text(self, name: str) -> str | None:
        """The file's text; None where there is none."""
        assert name == "direct_url.json"
        return self.content


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy outside of any checkout; direct_url.json is missing."""
    monkeypatch.setattr(installation, "__file__", str(tmp_path / "lib/bmqwen/util/installation.py"))
    note(monkeypatch, None)
    return tmp_path


def note(monkeypatch: pytest.MonkeyPatch, origin: object) -> None:
    """Let the installer have noted `origin`."""
    content = None if origin is None else json.dumps(origin)
    monkeypatch.setattr("importlib.metadata.distribution", lambda _: Noted(content))


def test_a_checkout_is_installed_from_its_folder() -> None:
    root = Path(__file__).parents[2]
    assert install_command("cpu") == f"pip install -e {shlex.quote(f'{root}[cpu]')}"


def test_a_copy_is_installed_from_the_folder_it_came_from(
    installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = installed / "my checkout"
    source.mkdir()
    note(monkeypatch, {"url": source.as_uri(), "dir_info": {}})
    assert shlex.split(install_command("serve")) == ["pip", "install", f"{source}[serve]"]
    source.rmdir()
    assert install_command("serve") == "pip install '.[serve]' in the checkout of bmqwen"


def test_a_wheel_is_installed_from_its_file_or_address(
    installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = installed / "bmqwen-1.0-py3-none-any.whl"
    wheel.touch()
    note(monkeypatch, {"url": wheel.as_uri(), "archive_info": {}})
    assert install_command("cpu") == f"pip install '{wheel}[cpu]'"
    note(monkeypatch, {"url": "https://example.org/b.whl", "archive_info": {}})
    assert install_command("cpu") == "pip install 'bmqwen[cpu] @ https://example.org/b.whl'"
    note(monkeypatch, {"url": "https://example.org/b", "vcs_info": {"vcs": "git", "commit_id": "abc"}})
    assert install_command("cpu") == "pip install 'bmqwen[cpu] @ git+https://example.org/b@abc'"


@pytest.mark.parametrize("origin", [None, [], {"url": 3}, {"url": "ftp://example.org"}])
def test_a_copy_of_unknown_origin_names_the_checkout(
    installed: Path, monkeypatch: pytest.MonkeyPatch, origin: object
) -> None:
    note(monkeypatch, origin)
    assert install_command("cpu") == "pip install '.[cpu]' in the checkout of bmqwen"
    assert installed.exists()


def test_a_copy_without_metadata_names_the_checkout(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Noted:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.distribution", missing)
    assert install_command("cpu") == "pip install '.[cpu]' in the checkout of bmqwen"
    assert installed.exists()


def test_no_message_recommends_a_package_of_the_index() -> None:
    package = Path(installation.__file__).parents[1]
    named = [path.name for path in package.rglob("*.py") if "'bmqwen[" in path.read_text(encoding="utf-8")]
    assert not named
