"""Everything beside the answers: models, tokens, health, metrics, and what the page asks for."""

import asyncio
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request
from starlette.responses import Response

from bmqwen.generate.params import PARAMETERS, Parameter, SamplingParams
from bmqwen.generate.template import ChatTemplate
from bmqwen.generate.tokenizer import Tokenizer
from bmqwen.serve.http.protocol import DetokenizeRequest, TokenizeChat, TokenizeRequest
from bmqwen.serve.http.responses import (
    LOADING,
    METRICS,
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
from bmqwen.serve.service import Caller, Service, Services
from bmqwen.version import __version__

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def model_api(services: Services, *, key_required: bool) -> APIRouter:
    """Build the router of all these addresses."""
    api = APIRouter()

    @api.get("/v1/models", summary="The models that are served")
    async def models() -> ModelList:
        return {"object": "list", "data": [_entry(*item) for item in services.names.items()]}

    @api.get("/v1/models/{name:path}", summary="One model")
    async def one_model(name: str) -> ModelEntry:
        service = services.find(name)
        return _entry(name if name in services.names else service.model.name, service)

    @api.get("/health", summary="Whether it can answer", responses=LOADING)
    async def health(response: Response) -> Health:
        ready = services.ready
        response.status_code = 200 if ready else 503
        pools = [service.pool for service in services]
        states = [replica.state for pool in pools for replica in pool.replicas]
        stopping = any(pool.draining for pool in pools)
        return {
            "status": "ok" if ready else "stopping" if stopping else "loading",
            "engines": len(states),
            "ready": states.count("ready"),
            "problem": next((pool.problem for pool in pools if pool.problem), None),
        }

    @api.get("/props", summary="The model and the server, as llama.cpp tells it")
    async def props() -> Props:
        service = services.first
        tokenizer, template = service.model.tokenizer, service.model.template
        return {
            "default_generation_settings": {"n_ctx": service.pool.check().context_length},
            "total_slots": len(service.pool.replicas),
            "model_alias": service.model.name,
            "chat_template": template.source,
            "eos_token": _eos_token(tokenizer, template),
            "modalities": {"vision": False, "audio": False},
            "build_info": f"bmqwen {__version__}",
        }

    @api.get("/slots", summary="Engines, as llama.cpp tells them")
    async def slots() -> list[Slot]:
        service = services.first
        facts, running = service.pool.check(), service.pool.running
        return [
            {"id": number, "n_ctx": facts.context_length, "is_processing": number < running}
            for number in range(len(service.pool.replicas))
        ]

    @api.get("/tokenizer_info", summary="The tokenizer, as vLLM tells it")
    async def tokenizer_info() -> TokenizerInfo:
        service = services.first
        tokenizer, template = service.model.tokenizer, service.model.template
        return {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": template.special_tokens.get("bos_token"),
            "eos_token": _eos_token(tokenizer, template),
            "pad_token": template.special_tokens.get("pad_token"),
            "model_max_length": service.pool.check().context_length,
            "chat_template": template.source,
        }

    @api.get("/metrics", summary="Counters for Prometheus", response_class=Response, responses=METRICS)
    async def metrics() -> Response:
        return Response(services.metrics(), media_type=METRICS_TYPE)

    @api.get("/api/info", summary="The model and the server")
    async def info() -> Info:
        service = services.first
        model, facts = service.model, service.pool.facts
        return {
            "model": model.name,
            "precision": model.precision,
            "engine": None if facts is None else facts.name,
            "context_length": None if facts is None else facts.context_length,
            "version": __version__,
            "key_required": key_required,
            "ready": service.pool.ready,
            "engines": len(service.pool.replicas),
            "sampling": await asyncio.to_thread(_settings, model.defaults, model.template),
            "limits": asdict(model.limits),
        }

    # What the page needs beside OpenAI's: an answer that is under way, for another connection.
    @api.get("/v1/answers/{name}", include_in_schema=False)
    async def read_on(name: str, request: Request, after: int = 0) -> Response:
        return EventStream(services.kept.read(Caller.of(request, None).owner, name, after), OPENAI)

    @api.delete("/v1/answers/{name}", include_in_schema=False)
    async def stop(name: str, request: Request) -> Response:
        services.kept.stop(Caller.of(request, None).owner, name)
        return Response(status_code=204)

    @api.post("/tokenize", summary="Text, or messages, to token ids")
    async def tokenize(body: Annotated[TokenizeRequest, Body()], request: Request) -> TokensAnswer:
        service = services.accept(body, request)
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
                continued=body.continued,
            )
        else:
            ids = await asyncio.to_thread(
                prompts.of_text, body.prompt, "prompt", control=body.parse_special is not False
            )
        limit = service.pool.check().context_length
        return {"count": len(ids), "max_model_len": limit, "tokens": ids}

    @api.post("/detokenize", summary="Token ids to text")
    async def detokenize(body: DetokenizeRequest, request: Request) -> TextAnswerOfTokens:
        service = services.accept(body, request)
        return {"prompt": service.prompts.of_tokens(body.tokens)}

    @api.post("/apply-template", summary="Messages to the prompt that the model reads")
    async def apply_template(body: TokenizeChat, request: Request) -> TextAnswerOfTokens:
        service = services.accept(body, request)
        service.pool.check()
        prompt = await asyncio.to_thread(
            service.prompts.text_of_chat,
            body.messages,
            body.tools or (),
            variables=body.chat_template_kwargs,
            continued=body.continued,
        )
        return {"prompt": prompt}

    return api


def _entry(name: str, service: Service) -> ModelEntry:
    """A model, as OpenAI's list has it; its context length is None before its first engine is loaded."""
    facts = service.pool.facts
    length = None if facts is None else facts.context_length
    return {
        "id": name,
        "object": "model",
        "created": service.model.created,
        "owned_by": "bmqwen",
        "max_model_len": length,
        "context_length": length,
        "meta": {"n_ctx_train": length, "n_vocab": service.model.vocab_size},
    }


def _eos_token(tokenizer: Tokenizer, template: ChatTemplate) -> str:
    """The token that ends an answer."""
    named = template.special_tokens.get("eos_token")
    return named or tokenizer.token_bytes(min(tokenizer.stop_ids)).decode("utf-8", "replace")


def _settings(defaults: SamplingParams, template: ChatTemplate) -> list[Any]:
    """Return the sampling parameters that mean something to this model: not all can think, or leave it."""
    known = {"enable_thinking": template.can_switch_thinking, "thinking_budget": template.thinks}
    settings = [_setting(row, defaults) for row in PARAMETERS if known.get(row.name, True)]
    for setting in settings:
        if setting["name"] == "enable_thinking" and setting["default"] is None:
            setting["default"] = template.thinks_unless_told
    return settings


def _setting(row: Parameter, defaults: SamplingParams) -> Any:
    """Return a sampling parameter as the page needs it for a field."""
    return {**asdict(row), "default": getattr(defaults, row.name), "words": {"en": row.en, "zh": row.zh}}
