"""The application: all addresses, and one place for all errors."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from bmqwen.errors import BmqwenError, MethodRefusedError, NotFoundError, RequestError
from bmqwen.serve.http.addresses import advice
from bmqwen.serve.http.anthropic.api import anthropic_api
from bmqwen.serve.http.chat import chat_api
from bmqwen.serve.http.completions import completion_api
from bmqwen.serve.http.errors import error_response, refused
from bmqwen.serve.http.info import model_api
from bmqwen.serve.http.llama_cpp import llama_cpp_api
from bmqwen.serve.http.middleware import AccessMiddleware, AccessRules
from bmqwen.serve.http.ollama.api import ollama_api
from bmqwen.serve.http.openai_responses.api import responses_api
from bmqwen.serve.http.page import PageFile, PageFiles
from bmqwen.serve.http.protocol import BIAS_PATTERN, LARGEST_ID
from bmqwen.serve.http.responses import ERRORS
from bmqwen.serve.http.retrieval import retrieval_api
from bmqwen.serve.service import Services
from bmqwen.version import __version__

_FOR_A_YEAR = "public, max-age=31536000, immutable"


def create_app(services: Services, rules: AccessRules) -> ASGIApp:
    """Build the application behind its middleware; it opens and closes the engines."""

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        for service in services:
            service.pool.open()
        yield
        services.kept.close()
        await asyncio.gather(*(service.pool.close() for service in services))

    app = FastAPI(
        title="bmqwen",
        version=__version__,
        description="Qwen chat models behind OpenAI's API.",
        lifespan=life,
        docs_url=None,
        redoc_url=None,
        responses=ERRORS,
        exception_handlers={BmqwenError: _expected, RequestValidationError: _refused, HTTPException: _http},
    )
    app.include_router(chat_api(services))
    app.include_router(completion_api(services))
    app.include_router(llama_cpp_api(services))
    app.include_router(responses_api(services))
    app.include_router(anthropic_api(services))
    app.include_router(ollama_api(services))
    app.include_router(retrieval_api(services))
    app.include_router(model_api(services, key_required=bool(rules.keys)))
    page = PageFiles(Path(str(files("bmqwen.serve") / "page")))
    _add_page(app, page)
    _describe(app, max(service.model.vocab_size for service in services))
    guarded = AccessMiddleware(cast("ASGIApp", app), rules, services.requests.requests, page.policy)
    if not rules.origins:
        return guarded
    # Web pages of these origins may read answers. Keys are sent in a header, no cookies: what else a page that may call
    # sends does no harm.
    return CORSMiddleware(
        guarded,
        rules.origins,
        allow_methods=("GET", "POST", "DELETE"),
        allow_headers=("*",),
        expose_headers=("Retry-After", "X-Request-Id", "X-Bmqwen-Ignored"),
    )


def _add_page(app: FastAPI, page: PageFiles) -> None:
    """Serve the page and its icon at `/`, and all that it loads below `/page/` and its version."""

    def answer(request: Request, file: PageFile, *, keep: bool) -> Response:
        tag = f'"{page.version}"'
        headers = {
            "cache-control": _FOR_A_YEAR if keep else "no-cache",
            "etag": tag,
            "vary": "accept-encoding",
        }
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        if file.packed is None or "gzip" not in request.headers.get("accept-encoding", ""):
            return Response(file.data, headers=headers, media_type=file.media_type)
        return Response(
            file.packed, headers={**headers, "content-encoding": "gzip"}, media_type=file.media_type
        )

    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def index(request: Request) -> Response:
        return answer(request, page.document, keep=False)

    @app.get("/favicon.ico", include_in_schema=False)
    async def icon(request: Request) -> Response:
        return await file(f"{page.version}/favicon.svg", request)

    # An older version is asked for by a tab that was opened before the server was updated.
    @app.get("/page/{path:path}", include_in_schema=False)
    async def file(path: str, request: Request) -> Response:
        version, _, name = path.partition("/")
        found = await asyncio.to_thread(page.find, name)
        if found is None:
            raise NotFoundError(f"there is nothing at {request.method} {request.url.path[:100]}")
        return answer(request, found, keep=version == page.version)


async def _expected(request: Request, error: BmqwenError) -> Response:
    return error_response(error, request.url.path)


async def _refused(request: Request, error: RequestValidationError) -> Response:
    return error_response(refused(error.errors(), request.url.path), request.url.path)


async def _http(request: Request, error: HTTPException) -> Response:
    path = request.url.path
    if isinstance(error.__cause__, BmqwenError):  # what the middleware said while the body was read
        return error_response(error.__cause__, path)
    where = f"{request.method} {path[:100]}"
    if error.status_code == 404:
        known = [place for place in request.app.openapi()["paths"] if "{" not in place]
        origin = f"{request.url.scheme}://{request.headers.get('host', '')[:100]}"
        return error_response(
            NotFoundError(f"there is nothing at {where}; {advice(path, known, origin)}"), path
        )
    if error.status_code == 405:
        # The error knows those of one route only; an address may have several.
        route = getattr(request.scope.get("route"), "path_format", "")
        known = request.app.openapi()["paths"].get(route) or [
            (error.headers or {}).get("Allow", "another method")
        ]
        methods = ", ".join(sorted(method.upper() for method in known))
        response = error_response(MethodRefusedError(f"{where} is not offered: use {methods}"), path)
        response.headers["allow"] = methods
        return response
    return error_response(RequestError("the request cannot be read: it is not valid JSON in UTF-8"), path)


def _describe(app: FastAPI, vocab_size: int) -> None:
    """Let the application's document name the vocabulary's size where a request has token ids."""
    inner = app.openapi

    @cache
    def document() -> dict[str, Any]:
        text = json.dumps(inner()).replace(BIAS_PATTERN, numbers_below(vocab_size))
        for largest in (f"{LARGEST_ID}.0", str(LARGEST_ID)):
            text = text.replace(largest, str(vocab_size - 1))
        made: dict[str, Any] = json.loads(text)
        return made

    app.openapi = document  # type: ignore[method-assign]


def numbers_below(limit: int) -> str:
    """Return a pattern of the decimal numbers from 0 to limit - 1, without leading zeros."""
    last = str(limit - 1)
    choices = ["[0-9]"] if len(last) > 1 else []
    choices += [f"[1-9][0-9]{{{length - 1}}}" for length in range(2, len(last))]
    for place, digit in enumerate(last):
        lowest = 1 if place == 0 and len(last) > 1 else 0
        if int(digit) > lowest:
            rest = len(last) - place - 1
            choices.append(
                f"{last[:place]}[{lowest}-{int(digit) - 1}]" + (f"[0-9]{{{rest}}}" if rest else "")
            )
    return f"^({'|'.join([*choices, last])})$"
