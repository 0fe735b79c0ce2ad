"""/v1/embeddings as OpenAI's, /v1/rerank as Jina's, Cohere's and vLLM's clients ask for it."""

import asyncio
import base64
import secrets
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Annotated, Any, Literal, NamedTuple

from fastapi import APIRouter, Request
from pydantic import AfterValidator, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError
from typing_extensions import NotRequired, TypedDict

from bmqwen.errors import ContextLengthError, InputError, RequestError
from bmqwen.generate.params import Completion, SamplingParams
from bmqwen.generate.retrieval import EmbeddingPrompts, RerankPrompts, embedding, relevance, shortened
from bmqwen.serve.http.fields import UNUSED, OpenModel, RequestModel, Unused, accepting
from bmqwen.serve.http.protocol import WHOLE, Ids, text_or_ids
from bmqwen.serve.http.responses import Count
from bmqwen.serve.http.streaming import unless_left
from bmqwen.serve.service import Caller, Service, Services

MOST_TEXTS = 2048
# Cohere's API has two versions, and clients of vLLM know all three.
RERANK_PATHS = ("/v1/rerank", "/rerank", "/v2/rerank")
_UNUSED = {name: UNUSED[name] for name in ("drop_params", "keep_alive", "metadata", "priority", "request_id")}
Truncate = Annotated[
    bool | Literal["NONE", "END"],
    Field(description="true or END: a text that is too long loses its end; false or NONE: it is refused."),
]


def _not_zero(tokens: int) -> int:
    if tokens == 0:
        raise PydanticCustomError("zero", "Input should be -1 or at least 1")
    return tokens


_MostTokens = Annotated[
    int,
    Field(
        ge=-1,
        description="A longer text, with all that is read with it, loses its end; -1: what fits.",
        json_schema_extra={"not": {"const": 0}},
    ),
    AfterValidator(_not_zero),
]
_User = Annotated[
    str, Field(max_length=256, description="Of one address's users, each gets a turn in the queue.")
]


@accepting({**_UNUSED, "normalize": Unused(Literal[True], (True,))})
class EmbeddingsRequest(RequestModel):
    """POST /v1/embeddings."""

    model: Annotated[str | None, Field(description="May be left out, or empty.")] = None
    input: Annotated[
        Annotated[str, Tag("a string")]
        | Annotated[list[str], Field(min_length=1, max_length=MOST_TEXTS), Tag("list of strings")]
        | Annotated[Ids, Tag("list of ids")]
        | Annotated[list[Ids], Field(min_length=1, max_length=MOST_TEXTS), Tag("lists of ids")],
        Discriminator(text_or_ids),
        Field(description="Text, or this model's token ids, or several of either."),
    ]
    dimensions: (
        Annotated[int, Field(ge=1, description="Only the first so many, as length 1."), WHOLE] | None
    ) = None
    encoding_format: Literal["float", "base64"] | None = None
    input_type: (
        Annotated[
            Literal["document", "query"],
            Field(description="query: the model's own instruction goes before each text."),
        ]
        | None
    ) = None
    instruction: (
        Annotated[str, Field(description="Goes before each text, in place of the model's own.")] | None
    ) = None
    truncate: Truncate | None = None
    truncate_prompt_tokens: _MostTokens | None = None
    user: _User | None = None


class RerankDocument(OpenModel):
    """A document with notes of the client's own."""

    text: str


@accepting({**_UNUSED, "max_chunks_per_doc": Unused(int), "rank_fields": Unused(list[str])})
class RerankRequest(RequestModel):
    """POST /v1/rerank."""

    model: Annotated[str | None, Field(description="May be left out, or empty.")] = None
    query: str
    documents: Annotated[list[str | RerankDocument], Field(min_length=1, max_length=MOST_TEXTS)]
    top_n: Annotated[int, Field(ge=1, description="Only the best so many."), WHOLE] | None = None
    return_documents: bool | None = None
    instruction: Annotated[str, Field(description="In place of the model's own.")] | None = None
    truncate: Truncate | None = None
    truncate_prompt_tokens: _MostTokens | None = None
    max_tokens_per_doc: (
        Annotated[int, Field(ge=1, description="A longer document loses its end."), WHOLE] | None
    ) = None
    user: _User | None = None


class ReadTokens(TypedDict):
    """Tokens read."""

    prompt_tokens: Count
    total_tokens: Count


class Embedding(TypedDict):
    """One text's: numbers, or little-endian float32 in base64."""

    object: Literal["embedding"]
    index: Count
    embedding: list[float] | str


class EmbeddingList(TypedDict):
    """Those of all texts, in their order."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: ReadTokens


class DocumentText(TypedDict):
    """A document."""

    text: str


class RankedDocument(TypedDict):
    """A document by its place in the request, and how sure the model is that it answers the query, from 0 to 1."""

    index: Count
    relevance_score: float
    document: NotRequired[DocumentText]


class Ranking(TypedDict):
    """Documents, the best first."""

    id: str
    model: str
    results: list[RankedDocument]
    usage: ReadTokens


def retrieval_api(services: Services) -> APIRouter:
    """Build the router."""
    api = APIRouter()

    @api.post("/v1/embeddings", summary="Embeddings of texts")
    async def embeddings(body: EmbeddingsRequest, request: Request) -> EmbeddingList:
        service = services.accept(body, request, "embedding")
        return await unless_left(_embed(service, body, request), request.receive)

    async def rerank(body: RerankRequest, request: Request) -> Ranking:
        service = services.accept(body, request, "rerank")
        return await unless_left(_rank(service, body, request), request.receive)

    for path in RERANK_PATHS:
        shown = path == RERANK_PATHS[0]
        api.add_api_route(
            path, rerank, methods=["POST"], summary="Documents by relevance", include_in_schema=shown
        )
    return api


async def embed_texts(
    service: Service,
    request: Request,
    inputs: Sequence[str | list[int]],
    *,
    single: bool = False,
    dimensions: int | None = None,
    query: bool = False,
    instruction: str | None = None,
    truncate: Truncate | None = None,
    truncate_prompt_tokens: int | None = None,
    user: str | None = None,
) -> tuple[list[Any], int]:
    """Return embeddings, float32 arrays of length 1, and how many tokens were read.

    `single`: the request has one text, and no list, as `input`. The others are those of the request.

    Raises:
        RequestError: a text that is too long or no valid Unicode, ids that are no tokens, too many dimensions.
        NotReadyError, BusyError: as `Pool.submit`.
    """
    prompts = service.model.retrieval
    assert isinstance(prompts, EmbeddingPrompts)
    width = service.model.width
    if dimensions is not None and dimensions > width:
        raise RequestError(f"dimensions is {dimensions}, but this model has {width}", "dimensions")

    def prompt(item: str | list[int]) -> list[int]:
        if isinstance(item, str):
            return prompts.prompt(item, query=query, instruction=instruction)
        if query or instruction is not None:
            raise InputError("an instruction goes before text: send text in place of token ids")
        return item

    names = ["input"] if single else [f"input[{place}]" for place in range(len(inputs))]
    most = _most(service, truncate, truncate_prompt_tokens)

    def prepare() -> _Prepared:
        _check_characters(service, names, inputs, len(instruction or ""))
        return _prepare(service, names, inputs, prompt, most, prompts.behind)

    prepared = await asyncio.to_thread(prepare)
    completions = await _complete(service, request, prepared, prompts.params, user)
    return [embedding(one, dimensions) for one in completions], prepared.tokens


async def _embed(service: Service, body: EmbeddingsRequest, request: Request) -> EmbeddingList:
    given: Any = body.input
    single = isinstance(given, str) or isinstance(given[0], int)
    vectors, tokens = await embed_texts(
        service,
        request,
        [given] if single else given,
        single=single,
        dimensions=body.dimensions,
        query=body.input_type == "query",
        instruction=body.instruction,
        truncate=body.truncate,
        truncate_prompt_tokens=body.truncate_prompt_tokens,
        user=body.user,
    )

    def written(vector: Any) -> list[float] | str:
        if body.encoding_format == "base64":
            return base64.b64encode(vector.astype("<f4").tobytes()).decode()
        numbers: list[float] = vector.tolist()
        return numbers

    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": written(vector)}
            for index, vector in enumerate(vectors)
        ],
        "model": service.model.name,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


async def _rank(service: Service, body: RerankRequest, request: Request) -> Ranking:
    prompts = service.model.retrieval
    assert isinstance(prompts, RerankPrompts)
    texts = [one if isinstance(one, str) else one.text for one in body.documents]
    names = [f"documents[{place}]" for place in range(len(texts))]

    def prompt(text: str | list[int]) -> list[int]:
        assert isinstance(text, str)
        return prompts.prompt(body.query, text, body.instruction)

    def prepare() -> _Prepared:
        _check_characters(service, names, texts, len(body.query) + len(body.instruction or ""))
        most, behind = _most(service, body.truncate, body.truncate_prompt_tokens), 0
        if most is not None or body.max_tokens_per_doc is not None:
            before, behind = prompts.beside(body.query, body.instruction)
            fits = most or _fits(service)
            room = fits - before - behind
            if room < 1:
                raise RequestError(
                    f"query and instruction alone have {before + behind:,} tokens, but together with "
                    f"a document only {fits:,} fit: shorten query",
                    "query",
                )
            longest = body.max_tokens_per_doc or room
            # What does not fit even so is refused unless the request says otherwise.
            most = before + behind + (longest if most is None else min(room, longest))
        return _prepare(service, names, texts, prompt, most, behind)

    prepared = await asyncio.to_thread(prepare)
    completions = await _complete(service, request, prepared, prompts.params, body.user)
    scores = [relevance(completion) for completion in completions]
    best = sorted(range(len(scores)), key=lambda index: -scores[index])[: body.top_n]
    results: list[RankedDocument] = [
        {"index": index, "relevance_score": scores[index], "document": {"text": texts[index]}}
        for index in best
    ]
    if body.return_documents is False:
        for result in results:
            del result["document"]
    return {
        "id": "rerank-" + secrets.token_hex(12),
        "model": service.model.name,
        "results": results,
        "usage": {"prompt_tokens": prepared.tokens, "total_tokens": prepared.tokens},
    }


class _Prepared(NamedTuple):
    """Prompts as token ids, and how many of them lost their ends."""

    prompts: list[list[int]]
    shortened: int

    @property
    def tokens(self) -> int:
        return sum(map(len, self.prompts))


def _check_characters(
    service: Service, names: Sequence[str], inputs: Sequence[str | list[int]], beside: int
) -> None:
    """Raise RequestError for too many; `beside`: characters that are read with each text."""
    most = service.model.limits.characters
    count = sum(len(item) + beside for item in inputs if isinstance(item, str))
    if count > most:
        with_each = f", of which {beside:,} go with each text," if beside else ""
        raise RequestError(
            f"{count:,} characters{with_each} are more than the {most:,} that this server takes", names[0]
        )


def _prepare(
    service: Service,
    names: Sequence[str],
    inputs: Sequence[str | list[int]],
    prompt: Callable[[str | list[int]], list[int]],
    most: int | None,
    behind: int,
) -> _Prepared:
    """Return the prompts of all inputs.

    Args:
        service: of the model.
        names: what the request calls the inputs.
        inputs: texts, or token ids.
        prompt: returns an input's tokens.
        most: tokens to which a longer prompt is shortened; None: those that do not fit are refused.
        behind: tokens behind an input, which are kept then.

    Raises RequestError, which names the input, before anything is computed.
    """
    vocabulary, fits = service.pool.check().vocab_size, _fits(service)
    found, cut = [], 0
    for name, item in zip(names, inputs, strict=True):
        try:
            ids = prompt(item)
        except InputError as error:
            raise RequestError(f"{name}: {error}", name) from None
        if max(ids) >= vocabulary:
            raise RequestError(f"{name} has the token {max(ids)}, but the last one is {vocabulary - 1}", name)
        whole = len(ids)
        if most is not None:
            ids = shortened(ids, most, behind)
        if len(ids) > fits:
            raise ContextLengthError(fits, whole, f"split {name}, or set truncate to true")
        cut += len(ids) < whole
        found.append(ids)
    return _Prepared(found, cut)


def _fits(service: Service) -> int:
    """Return how many tokens a prompt may have."""
    return service.pool.check().context_length - 1


def _most(service: Service, truncate: Truncate | None, most: int | None) -> int | None:
    """Return how many tokens a longer prompt is shortened to; None: longer ones are refused."""
    fits = _fits(service)
    if most is None:
        return fits if truncate in (True, "END") else None
    return min(most, fits) if most > 0 else fits


async def _complete(
    service: Service, request: Request, prepared: _Prepared, params: SamplingParams, user: str | None
) -> list[Completion]:
    """Have all prompts computed, a few at a time: other clients get their turns between them."""
    caller = Caller.of(request, user)
    places = asyncio.Semaphore(service.pool.check().sequences * max(1, len(service.pool.replicas)) + 1)

    async def one(prompt: list[int]) -> Completion:
        async with places, aclosing(service.generate(prompt, params, caller)) as events:
            async for event in events:
                if isinstance(event, tuple):
                    return event[0]
        raise AssertionError("an answer ends with a completion or an error")

    tasks = [asyncio.ensure_future(one(prompt)) for prompt in prepared.prompts]
    try:
        completions = await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    cut = f", {prepared.shortened} shortened" if prepared.shortened else ""
    request.scope["note"] = f"{prepared.tokens} tokens of {len(prepared.prompts)} texts{cut}"
    return completions
