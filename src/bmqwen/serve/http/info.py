"""Everything beside the answers: models, tokens, health, metrics, and what the page asks for."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request
from starlette.responses import Response

from bmqwen.errors import NotOfferedError
from bmqwen.serve.http.errors import json_response
from bmqwen.serve.http.protocol import DetokenizeRequest, TemplateRequest, TokenizeChat, TokenizeRequest
from bmqwen.serve.http.responses import (
    LOADING,
    METRICS,
    ErrorAnswer,
    Health,
    Info,
    ModelEntry,
    ModelList,
    TextAnswerOfTokens,
    TokensAnswer,
)
from bmqwen.serve.service import Caller, Service

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def model_api(service: Service, *, key_required: bool) -> APIRouter:
    """All of the addresses."""
    api = APIRouter()

    def model() -> dict[str, Any]:
        return {
            "id": service.model.name,
            "object": "model",
            "created": service.model.created,
            "owned_by": "bmqwen",
        }

    @api.get("/v1/models", summary="The models that are served", response_model=ModelList)
    async def models() -> Response:
        return json_response({"object": "list", "data": [model()]})

    @api.get("/v1/models/{name:path}", summary="One model", response_model=ModelEntry)
    async def one_model(name: str) -> Response:
        service.check_model(name)
        return json_response(model())

    @api.post("/v1/embeddings", summary="Not offered", status_code=404, response_model=ErrorAnswer)
    async def embeddings() -> Response:
        raise NotOfferedError("this server has no embeddings: chat models do not make good ones")

    @api.get("/health", summary="Whether it can answer", response_model=Health, responses=LOADING)
    async def health() -> Response:
        scheduler = service.scheduler
        ready = scheduler.ready
        status = "ok" if ready else "stopping" if scheduler.draining else "loading"
        states = [replica.state for replica in scheduler.replicas]
        state = {
            "status": status,
            "engines": len(states),
            "ready": states.count("ready"),
            "problem": scheduler.problem or None,
        }
        return json_response(state, 200 if ready else 503)

    @api.get("/metrics", summary="Counters for Prometheus", response_class=Response, responses=METRICS)
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=METRICS_TYPE)

    @api.get("/api/info", summary="The model and the server", response_model=Info)
    async def info() -> Response:
        return json_response(service.info(key_required=key_required))

    @api.post("/tokenize", summary="Text, or messages, to token ids", response_model=TokensAnswer)
    async def tokenize(body: Annotated[TokenizeRequest, Body()], request: Request) -> Response:
        service.check_model(body.model)
        prompts = service.prompts
        if isinstance(body, TokenizeChat):
            owner = Caller.of(request, None).owner
            ids = await asyncio.to_thread(prompts.of_chat, body.messages, owner, fitting=False)
        else:
            ids = await asyncio.to_thread(prompts.of_text, body.prompt, "prompt")
        return json_response(
            {"count": len(ids), "max_model_len": service.scheduler.check().context_length, "tokens": ids}
        )

    @api.post("/detokenize", summary="Token ids to text", response_model=TextAnswerOfTokens)
    async def detokenize(body: DetokenizeRequest) -> Response:
        service.check_model(body.model)
        return json_response({"prompt": service.prompts.of_tokens(body.tokens)})

    @api.post(
        "/apply-template",
        summary="Messages to the prompt that the model reads",
        response_model=TextAnswerOfTokens,
    )
    async def apply_template(body: TemplateRequest) -> Response:
        service.check_model(body.model)
        return json_response({"prompt": await asyncio.to_thread(service.prompts.text_of_chat, body.messages)})

    return api
