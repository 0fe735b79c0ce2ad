"""The application: all addresses, and one place for all errors."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp

from bmqwen.errors import BmqwenError, MethodRefusedError, NotFoundError, RequestError
from bmqwen.serve.http.api_document import describe
from bmqwen.serve.http.completions import generation_api
from bmqwen.serve.http.errors import error_response, refused
from bmqwen.serve.http.info import model_api
from bmqwen.serve.http.middleware import Guard, GuardRules
from bmqwen.serve.http.page_files import page_api, read_page
from bmqwen.serve.http.responses import ERRORS
from bmqwen.serve.service import Service
from bmqwen.version import __version__


def create_app(service: Service, rules: GuardRules) -> ASGIApp:
    """The application behind its guard; it opens and closes the service's engines."""

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        service.scheduler.open()
        yield
        await service.scheduler.close()

    app = FastAPI(
        title="bmqwen",
        version=__version__,
        description="Qwen chat models behind OpenAI's API.",
        lifespan=life,
        docs_url=None,
        redoc_url=None,
        responses=ERRORS,
    )
    app.include_router(generation_api(service))
    app.include_router(model_api(service, key_required=bool(rules.keys)))
    app.include_router(page_api(read_page()))
    describe(app, service.model.vocab_size)
    handlers: dict[Any, Any] = {
        BmqwenError: _expected,
        RequestValidationError: _refused,
        HTTPException: _http,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)
    return Guard(cast("ASGIApp", app), rules, service.metrics.request)


async def _expected(_: Request, error: BmqwenError) -> Response:
    return error_response(error)


async def _refused(_: Request, error: RequestValidationError) -> Response:
    return error_response(refused(error.errors()))


async def _http(request: Request, error: HTTPException) -> Response:
    if isinstance(error.__cause__, BmqwenError):  # what our guard said while the body was read
        return error_response(error.__cause__)
    where = f"{request.method} {request.url.path[:100]}"
    if error.status_code == 404:
        return error_response(NotFoundError(f"there is nothing at {where}"))
    if error.status_code == 405:
        response = error_response(MethodRefusedError(f"{where} is not offered: use another method"))
        response.headers.update(error.headers or {})
        return response
    return error_response(RequestError("the request cannot be read: it is no JSON"))
