"""/api/embed, and /api/embeddings of older clients."""

import time
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import Discriminator, Field, Tag
from typing_extensions import TypedDict

from bmqwen.serve.http.fields import UNUSED, RequestModel, Unused, accepting
from bmqwen.serve.http.ollama.request import Name
from bmqwen.serve.http.protocol import WHOLE, text_or_ids
from bmqwen.serve.http.responses import Count
from bmqwen.serve.http.retrieval import MOST_TEXTS, embed_texts
from bmqwen.serve.http.streaming import unless_left
from bmqwen.serve.service import Services

_ROWS = {"keep_alive": UNUSED["keep_alive"], "options": Unused(dict[str, Any], ({},))}


@accepting(_ROWS)
class OllamaEmbedRequest(RequestModel):
    """POST /api/embed."""

    model: Name | None = None
    input: Annotated[
        Annotated[str, Tag("a string")]
        | Annotated[list[str], Field(min_length=1, max_length=MOST_TEXTS), Tag("list of strings")],
        Discriminator(text_or_ids),
    ]
    dimensions: Annotated[int, Field(ge=1), WHOLE] | None = None
    truncate: Annotated[
        bool | None, Field(description="A text that is too long loses its end; false: it is refused.")
    ] = True


@accepting(_ROWS)
class OllamaEmbeddingsRequest(RequestModel):
    """POST /api/embeddings."""

    model: Name | None = None
    prompt: str


class OllamaEmbedAnswer(TypedDict):
    """Embeddings of all texts; times in nanoseconds."""

    model: str
    embeddings: list[list[float]]
    total_duration: Count
    load_duration: Count
    prompt_eval_count: Count


class OllamaEmbeddingsAnswer(TypedDict):
    """The embedding of a text."""

    embedding: list[float]


def add_embeddings(api: APIRouter, services: Services) -> None:
    """Add both addresses."""

    @api.post("/embed", summary="Ollama: embeddings of texts")
    async def embed(body: OllamaEmbedRequest, request: Request) -> OllamaEmbedAnswer:
        service, start = services.accept(body, request, "embedding"), time.monotonic_ns()
        single = isinstance(body.input, str)
        texts = [body.input] if isinstance(body.input, str) else body.input
        work = embed_texts(
            service,
            request,
            texts,
            single=single,
            dimensions=body.dimensions,
            truncate=body.truncate is not False,
        )
        vectors, tokens = await unless_left(work, request.receive)
        return {
            "model": service.model.name,
            "embeddings": [vector.tolist() for vector in vectors],
            "total_duration": time.monotonic_ns() - start,
            "load_duration": 0,
            "prompt_eval_count": tokens,
        }

    @api.post("/embeddings", summary="Ollama: the embedding of a text")
    async def embeddings(body: OllamaEmbeddingsRequest, request: Request) -> OllamaEmbeddingsAnswer:
        service = services.accept(body, request, "embedding")
        vectors, _ = await unless_left(
            embed_texts(service, request, [body.prompt], single=True, truncate=True), request.receive
        )
        return {"embedding": vectors[0].tolist()}
