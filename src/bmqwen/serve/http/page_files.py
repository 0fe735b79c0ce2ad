"""The web page: all its files are read once, so that no request's path ever reaches the file system."""

import hashlib
import mimetypes
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request
from starlette.responses import Response

from bmqwen.errors import NotFoundError

if TYPE_CHECKING:
    # Not there before Python 3.11.
    from importlib.resources.abc import Traversable

_TYPES = {
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".woff2": "font/woff2",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class PageFile:
    """A file's content, its media type, and a name of this content for browsers."""

    content: bytes
    media_type: str
    tag: str


def read_page() -> dict[str, PageFile]:
    """All files of the package's folder `page` by their path in it; none if it has no page."""
    folder = files("bmqwen.serve") / "page"
    found: dict[str, PageFile] = {}
    if folder.is_dir():
        _read(folder, "", found)
    return found


def page_api(pages: dict[str, PageFile]) -> APIRouter:
    """`/` and everything below `/page/`."""
    api = APIRouter(include_in_schema=False)

    def answer(name: str, request: Request) -> Response:
        file = pages.get(name)
        if file is None:
            raise NotFoundError(f"there is nothing at {request.url.path[:100]}")
        headers = {"etag": file.tag, "cache-control": "no-cache"}
        if request.headers.get("if-none-match") == file.tag:
            return Response(status_code=304, headers=headers)
        return Response(file.content, headers=headers, media_type=file.media_type)

    @api.get("/")
    async def index(request: Request) -> Response:
        return answer("index.html", request)

    @api.get("/favicon.ico")
    async def icon(request: Request) -> Response:
        return answer("favicon.svg", request)

    @api.get("/page/{name:path}")
    async def asset(name: str, request: Request) -> Response:
        return answer(name, request)

    return api


def _read(folder: "Traversable", prefix: str, found: dict[str, PageFile]) -> None:
    for item in folder.iterdir():
        name = prefix + item.name
        if item.is_dir():
            if not item.name.startswith("__"):
                _read(item, f"{name}/", found)
            continue
        content = item.read_bytes()
        suffix = "." + item.name.rpartition(".")[2]
        kind = _TYPES.get(suffix) or mimetypes.guess_type(item.name)[0] or "application/octet-stream"
        found[name] = PageFile(content, kind, f'"{hashlib.sha256(content).hexdigest()[:20]}"')
