"""The web page's files, at `/` and below `/page/`."""

import mimetypes
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

# What a system's own table may lack.
for _suffix, _type in {".js": "text/javascript", ".mjs": "text/javascript", ".svg": "image/svg+xml"}.items():
    mimetypes.add_type(_type, _suffix)


class PageFiles(StaticFiles):
    """Files of the package's folder `page`. Browsers ask each time whether their copies are the newest."""

    def __init__(self) -> None:
        super().__init__(packages=[("bmqwen.serve", "page")], follow_symlink=True)

    def file_response(self, *arguments: Any, **named: Any) -> Response:
        """Answer as StaticFiles does, but let no browser use a copy unasked."""
        response = super().file_response(*arguments, **named)
        response.headers["cache-control"] = "no-cache"
        return response


def add_page(app: FastAPI) -> None:
    """Serve the page, its icon and all that it loads."""
    files = PageFiles()

    @app.get("/", include_in_schema=False)
    async def index(request: Request) -> Response:
        return await files.get_response("index.html", request.scope)

    @app.get("/favicon.ico", include_in_schema=False)
    async def icon(request: Request) -> Response:
        return await files.get_response("favicon.svg", request.scope)

    app.mount("/page", files)
