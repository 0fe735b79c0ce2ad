"""Where this copy of bmqwen was installed from, for messages that say how to add an extra to it."""

import json
from pathlib import Path
from shlex import quote
from typing import Any
from urllib.parse import unquote, urlsplit

PACKAGE = "bmqwen"


def install_command(extra: str) -> str:
    """Return the command that adds an extra, such as "cpu", to this copy of bmqwen."""
    checkout = Path(__file__).parents[3]
    if (checkout / "pyproject.toml").is_file() and (checkout / "src" / PACKAGE / "__init__.py").is_file():
        return f"pip install -e {quote(f'{checkout}[{extra}]')}"
    target = _requirement(_origin(), extra)
    return f"pip install {quote(target or f'.[{extra}]')}" + ("" if target else " in the checkout of bmqwen")


def _origin() -> dict[str, Any]:
    """Return what the installer noted in direct_url.json; {} where it noted nothing that can be used."""
    # Here, since it takes a tenth of the time that all of bmqwen takes to be imported, and most commands never need it.
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        content = json.loads(distribution(PACKAGE).read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, OSError, ValueError):
        return {}
    return content if isinstance(content, dict) and isinstance(content.get("url"), str) else {}


def _requirement(origin: dict[str, Any], extra: str) -> str | None:
    """Return what to hand to pip; None where the place is unknown or gone."""
    address = origin.get("url", "")
    url = urlsplit(address)
    if url.scheme == "file":
        path = Path(unquote(url.path))
        return f"{path}[{extra}]" if path.exists() else None
    source = origin.get("vcs_info")
    if isinstance(source, dict):
        return f"{PACKAGE}[{extra}] @ {source.get('vcs', 'git')}+{address}@{source.get('commit_id', 'HEAD')}"
    return f"{PACKAGE}[{extra}] @ {address}" if url.scheme in ("http", "https") else None
