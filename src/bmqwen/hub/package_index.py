"""Wheels from the package indexes that pip is configured for: as archives, which are never installed."""

import configparser
import logging
import os
import ssl
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from bmqwen.errors import DownloadError
from bmqwen.hub.source import RemoteFile
from bmqwen.hub.transfer import WebFile, describe, download
from bmqwen.util.progress import Report
from bmqwen.util.storage import storage_errors
from bmqwen.util.text import first_line

if TYPE_CHECKING:
    from unearth import Link
    from unearth.fetchers.sync import PyPIClient

# The finder asks its own default where it is given no place.
_DEFAULT_INDEX = ""
_TITLE = "the package index"
_EXECUTABLE = 0o111


def fetch_wheel(
    requirement: str,
    folder: Path,
    report: Report,
    *,
    sha256: str | None = None,
    python: tuple[int, int] | None = None,
) -> Path:
    """Download the wheel of `requirement` ("name==version"), without its dependencies, into `folder`.

    What an earlier call left there (`*.whl.part`) is continued.

    Args:
        requirement: what to fetch.
        folder: where to; exists.
        report: receives the number of bytes that have arrived.
        sha256: of the wheel; None to believe the index.
        python: the Python that it must suit; None for this one.

    Returns:
        Its path.

    Raises:
        DownloadError: no index could be reached, none has it, the network failed, or its hash is another.
        StorageError: the disk is full.
    """
    settings = pip_settings()
    with _client(settings) as client:
        link = _find(requirement, client, settings, python)
        part = folder / f"{link.filename}.part"
        stated = (link.hash_option or {}).get("sha256", [None])[0]
        file = RemoteFile(link.filename, 0, sha256 or stated)
        download(WebFile(link.url_without_fragment, client=client), file, part, report, _TITLE)
    with storage_errors(part):
        return part.replace(folder / link.filename)


def pip_settings() -> dict[str, str]:
    """Read pip's settings by their names: from its configuration files, then the variables PIP_*, as pip does.

    Raises DownloadError for a file that cannot be read.
    """
    named = os.environ.get("PIP_CONFIG_FILE")
    parser = configparser.RawConfigParser()
    if named != os.devnull:
        shared = os.environ.get("XDG_CONFIG_DIRS", "/etc/xdg").split(os.pathsep)
        files = [*(Path(folder) / "pip" / "pip.conf" for folder in reversed(shared)), Path("/etc/pip.conf")]
        if not named:
            files += [Path.home() / ".pip" / "pip.conf", platformdirs.user_config_path("pip") / "pip.conf"]
        files += [Path(sys.prefix) / "pip.conf", *([Path(named)] if named else [])]
        try:
            parser.read(files, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError) as error:
            raise DownloadError(f"pip's configuration cannot be read: {first_line(error)}") from error
    settings: dict[str, str] = {}
    for section in ("global", "download"):
        if parser.has_section(section):
            settings |= {name.replace("_", "-"): value for name, value in parser.items(section)}
    variables = {n[4:].lower().replace("_", "-"): v for n, v in os.environ.items() if n.startswith("PIP_")}
    return settings | variables


def _indexes(settings: dict[str, str]) -> list[str]:
    if settings.get("no-index", "").lower() in ("1", "on", "yes", "true"):
        return []
    return [settings.get("index-url") or _DEFAULT_INDEX, *settings.get("extra-index-url", "").split()]


@contextmanager
def _client(settings: dict[str, str]) -> Iterator["PyPIClient"]:
    import httpx2
    from unearth.auth import MultiDomainBasicAuth
    from unearth.fetchers.sync import PyPIClient

    # It announces on stderr, in the middle of a progress bar, which index lacks a package.
    logging.getLogger("unearth").setLevel(logging.ERROR)
    proxy, trusted = settings.get("proxy") or None, settings.get("trusted-host", "").split()
    with PyPIClient(
        trusted_hosts=trusted,
        verify=_certificates(settings),
        proxy=proxy,
        mounts={f"all://{host}": httpx2.HTTPTransport(verify=False, proxy=proxy) for host in trusted},
        follow_redirects=True,
    ) as client:
        client.auth = MultiDomainBasicAuth(prompting=False, index_urls=[*filter(None, _indexes(settings))])
        yield client


def _certificates(settings: dict[str, str]) -> ssl.SSLContext | bool:
    path = settings.get("cert")
    if not path:
        return True
    try:
        return ssl.create_default_context(cafile=path)
    except OSError as error:
        raise DownloadError(
            f"the certificates that pip's setting `cert` names cannot be read: {path}"
        ) from error


def _find(
    requirement: str, client: "PyPIClient", settings: dict[str, str], python: tuple[int, int] | None
) -> "Link":
    """Ask folders of wheels, then one index after the other."""
    import httpx2
    from unearth import PackageFinder, TargetPython

    places = [{"find_links": [link]} for link in settings.get("find-links", "").split()]
    places += [{"index_urls": [url] if url else []} for url in _indexes(settings)]
    failure: Exception | None = None
    for place in places:
        # The finder's own type of a client is too narrow for the client that it comes with.
        finder = PackageFinder(client, target_python=TargetPython(python), only_binary=[":all:"], **place)  # type: ignore[arg-type]
        try:
            for package in finder.find_matches(requirement):
                return package.link
        except ValueError:  # a folder that is not there, which pip passes over as well
            continue
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            failure = error
    if failure is not None:
        raise DownloadError(
            f"{_TITLE} could not be reached ({describe(failure)}): `pip config list` shows which one is asked"
        ) from failure
    raise DownloadError(
        f"{_TITLE} has no wheel of {requirement}: `pip config list` shows which one is asked; try another"
    )


def unpack(wheel: Path, folder: Path, wanted: Callable[[str], bool]) -> None:
    """Unpack the members whose names are `wanted` below `folder`, with their execute bits.

    Raises:
        DownloadError: the archive is damaged or has a member that leads out of the folder.
        StorageError: the disk is full.
    """
    try:
        with zipfile.ZipFile(wheel) as archive, storage_errors(folder):
            for member in archive.infolist():
                if member.is_dir() or not wanted(member.filename):
                    continue
                if member.filename.startswith("/") or ".." in member.filename.split("/"):
                    raise DownloadError(f"{wheel.name} has a member outside of its folder: {member.filename}")
                path = Path(archive.extract(member, folder))
                if (member.external_attr >> 16) & _EXECUTABLE:
                    path.chmod(0o755)
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise DownloadError(f"{wheel.name} is damaged ({error}): remove it and try again") from error
