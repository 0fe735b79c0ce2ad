"""Everything beside the answers: models, tokens, health, metrics, and what the page asks for."""

import asyncio
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request
from starlette.responses import Response

from bmqwen.errors import NotOfferedError
from bmqwen.generate.params import PARAMETERS, Parameter, SamplingParams
from bmqwen.generate.template import ChatTemplate
from bmqwen.generate.tokenizer import Tokenizer
from bmqwen.serve.http.protocol import DetokenizeRequest, TokenizeChat, TokenizeRequest
from bmqwen.serve.http.responses import (
    LOADING,
    METRICS,
    ErrorAnswer,
    Health,
    Info,
    ModelEntry,
    ModelList,
    Props,
    Slot,
    TextAnswerOfTokens,
    TokenizerInfo,
    TokensAnswer,
)
from bmqwen.serve.http.streaming import OPENAI, EventStream
from bmqwen.serve.service import Caller, Service
from bmqwen.version import __version__

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def model_api(service: Service, *, key_required: bool) -> APIRouter:
    """Build the router of all these addresses."""
    api = APIRouter()

    def context_length() -> int | None:
        """None before the first engine is loaded."""
        facts = service.scheduler.facts
        return None if facts is None else facts.context_length

    def model() -> ModelEntry:
        return {
            "id": service.model.name,
            "object": "model",
            "created": service.model.created,
            "owned_by": "bmqwen",
            "max_model_len": context_length(),
            "context_length": context_length(),
            "meta": {"n_ctx_train": context_length(), "n_vocab": service.model.vocab_size},
        }

    @api.get("/v1/models", summary="The models that are served")
    async def models() -> ModelList:
        return {"object": "list", "data": [model()]}

    @api.get("/v1/models/{name:path}", summary="One model")
    async def one_model(name: str) -> ModelEntry:
        service.check_model(name)
        return model()

    @api.post("/v1/embeddings", summary="Not offered", status_code=404)
    async def embeddings() -> ErrorAnswer:
        raise NotOfferedError("this server has no embeddings: chat models make poor ones")

    @api.get("/health", summary="Whether it can answer", responses=LOADING)
    async def health(response: Response) -> Health:
        scheduler = service.scheduler
        ready = scheduler.ready
        response.status_code = 200 if ready else 503
        states = [replica.state for replica in scheduler.replicas]
        return {
            "status": "ok" if ready else "stopping" if scheduler.draining else "loading",
            "engines": len(states),
            "ready": states.count("ready"),
            "problem": scheduler.problem or None,
        }

    @api.get("/props", summary="The model and the server, as llama.cpp tells it")
    async def props() -> Props:
        tokenizer, template = service.model.tokenizer, service.model.template
        return {
            "default_generation_settings": {"n_ctx": service.scheduler.check().context_length},
            "total_slots": len(service.scheduler.replicas),
            "model_alias": service.model.name,
            "chat_template": template.source,
            "eos_token": _eos_token(tokenizer, template),
            "modalities": {"vision": False, "audio": False},
            "build_info": f"bmqwen {__version__}",
        }

    @api.get("/slots", summary="Engines, as llama.cpp tells them")
    async def slots() -> list[Slot]:
        facts, running = service.scheduler.check(), service.scheduler.running
        return [
            {"id": number, "n_ctx": facts.context_length, "is_processing": number < running}
            for number in range(len(service.scheduler.replicas))
        ]

    @api.get("/tokenizer_info", summary="The tokenizer, as vLLM tells it")
    async def tokenizer_info() -> TokenizerInfo:
        tokenizer, template = service.model.tokenizer, service.model.template
        return {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": template.special_tokens.get("bos_token"),
            "eos_token": _eos_token(tokenizer, template),
            "pad_token": template.special_tokens.get("pad_token"),
            "model_max_length": service.scheduler.check().context_length,
            "chat_template": template.source,
        }

    @api.get("/metrics", summary="Counters for Prometheus", response_class=Response, responses=METRICS)
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=METRICS_TYPE)

    @api.get("/api/info", summary="The model and the server")
    async def info() -> Info:
        model, facts = service.model, service.scheduler.facts
        return {
            "model": model.name,
            "precision": model.precision,
            "engine": None if facts is None else facts.name,
            "context_length": None if facts is None else facts.context_length,
            "version": __version__,
            "key_required": key_required,
            "ready": service.scheduler.ready,
            "engines": len(service.scheduler.replicas),
            "sampling": [_setting(row, model.defaults) for row in PARAMETERS],
            "limits": asdict(model.limits),
        }

    # What the page needs beside OpenAI's: an answer that is under way, for another connection.
    @api.get("/v1/answers/{name}", include_in_schema=False)
    async def read_on(name: str, request: Request, after: int = 0) -> Response:
        return EventStream(service.kept.read(Caller.of(request, None).owner, name, after), OPENAI)

    @api.delete("/v1/answers/{name}", include_in_schema=False)
    async def stop(name: str, request: Request) -> Response:
        service.kept.stop(Caller.of(request, None).owner, name)
        return Response(status_code=204)

    @api.post("/tokenize", summary="Text, or messages, to token ids")
    async def tokenize(body: Annotated[TokenizeRequest, Body()], request: Request) -> TokensAnswer:
        service.accept(body, request)
        prompts = service.prompts
        if isinstance(body, TokenizeChat):
            owner = Caller.of(request, None).owner
            ids = await asyncio.to_thread(
                prompts.of_chat,
                body.messages,
                owner,
                body.tools or (),
                variables=body.chat_template_kwargs,
                fitting=False,
            )
        else:
            ids = await asyncio.to_thread(
                prompts.of_text, body.prompt, "prompt", control=body.parse_special is not False
            )
        limit = service.scheduler.check().context_length
        return {"count": len(ids), "max_model_len": limit, "tokens": ids}

    @api.post("/detokenize", summary="Token ids to text")
    async def detokenize(body: DetokenizeRequest, request: Request) -> TextAnswerOfTokens:
        service.accept(body, request)
        return {"prompt": service.prompts.of_tokens(body.tokens)}

    @api.post("/apply-template", summary="Messages to the prompt that the model reads")
    async def apply_template(body: TokenizeChat, request: Request) -> TextAnswerOfTokens:
        service.accept(body, request)
        service.scheduler.check()
        prompts, tools, kwargs = service.prompts, body.tools or (), body.chat_template_kwargs
        return {
            "prompt": await asyncio.to_thread(prompts.text_of_chat, body.messages, tools, variables=kwargs)
        }

    return api


def _eos_token(tokenizer: Tokenizer, template: ChatTemplate) -> str:
    """The token that ends an answer."""
    named = template.special_tokens.get("eos_token")
    return named or tokenizer.token_bytes(min(tokenizer.stop_ids)).decode("utf-8", "replace")


def _setting(row: Parameter, defaults: SamplingParams) -> Any:
    """Return a sampling parameter as the page needs it for a field."""
    return {**asdict(row), "default": getattr(defaults, row.name), "words": {"en": row.en, "zh": row.zh}}
