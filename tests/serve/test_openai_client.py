"""The official client against a live port."""

import asyncio
import json

import openai
import pytest

from support.live_server import LiveServer
from support.talker import SAYS

pytestmark = pytest.mark.filterwarnings("default")
ASK: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "say it"}]


@pytest.fixture
def client(talking: LiveServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{talking.url}/v1", api_key="none", max_retries=0)


def model(client: openai.OpenAI) -> str:
    return client.models.list().data[0].id


def test_models(client: openai.OpenAI) -> None:
    name = model(client)
    assert client.models.retrieve(name).id == name
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-4")
    assert caught.value.code == "model_not_found"


def test_an_answer(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=model(client), messages=ASK)
    assert answer.object == "chat.completion"
    assert answer.id.startswith("chatcmpl-")
    assert answer.choices[0].message.content == SAYS
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    again = client.chat.completions.create(model=model(client), messages=ASK)
    assert again.id != answer.id
    assert again.usage is not None
    assert again.usage.prompt_tokens_details is not None
    cached = again.usage.prompt_tokens_details.cached_tokens
    assert cached is not None
    assert again.usage.prompt_tokens - 4 <= cached < again.usage.prompt_tokens


def test_a_stream_is_the_same_answer(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model=model(client), messages=ASK, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == SAYS
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]][-1] == "stop"
    assert all(chunk.usage is None for chunk in chunks[:-1])
    last = chunks[-1]
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens > 1
    timings = (last.model_extra or {})["timings"]
    assert set(timings) == {"first_token_s", "tokens_per_s", "prompt_tokens", "cached_tokens", "queue_s"}
    assert timings["prompt_tokens"] == last.usage.prompt_tokens


def test_stop_length_and_several_choices(client: openai.OpenAI) -> None:
    cut = client.chat.completions.create(model=model(client), messages=ASK, stop=["you", "nothing"])
    assert cut.choices[0].message.content == SAYS.partition("you")[0]
    assert cut.choices[0].finish_reason == "stop"
    short = client.chat.completions.create(model=model(client), messages=ASK, max_tokens=2, n=3)
    assert [choice.index for choice in short.choices] == [0, 1, 2]
    assert {choice.finish_reason for choice in short.choices} == {"length"}
    assert short.usage is not None
    assert short.usage.completion_tokens == 6


def test_log_probabilities(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=model(client), messages=ASK, logprobs=True, top_logprobs=2, temperature=0
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert b"".join(bytes(item.bytes or []) for item in logprobs.content).decode() == SAYS
    for item in logprobs.content:
        assert len(item.top_logprobs) == 2
        assert item.top_logprobs[0].token == item.token
        assert 0 >= item.logprob >= item.top_logprobs[1].logprob


def test_a_bias_bans_a_token(client: openai.OpenAI, talking: LiveServer) -> None:
    tokens = talking.post("/tokenize", {"prompt": "hello"}).json()["tokens"]
    answer = client.chat.completions.create(
        model=model(client), messages=ASK, logit_bias={str(tokens[0]): -100}, max_tokens=3, temperature=0
    )
    assert not (answer.choices[0].message.content or "").startswith("hello")


def test_completions(client: openai.OpenAI) -> None:
    name = model(client)
    answer = client.completions.create(model=name, prompt=["\n", "\n"], max_tokens=50, logprobs=1)
    assert [choice.text for choice in answer.choices] == [SAYS, SAYS]
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens is not None
    assert logprobs.text_offset == [
        len("".join(logprobs.tokens[:place])) for place in range(len(logprobs.tokens))
    ]
    stream = client.completions.create(model=name, prompt="\n", max_tokens=50, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == SAYS


def test_json_that_keeps_to_a_schema(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}, "kind": {"enum": ["a", "b"]}},
        "required": ["ok", "kind"],
        "additionalProperties": False,
    }
    for seed in range(3):
        answer = client.chat.completions.create(
            model=model(client),
            messages=ASK,
            seed=seed,
            temperature=1,
            response_format={"type": "json_schema", "json_schema": {"name": "it", "schema": schema}},
        )
        value = json.loads(answer.choices[0].message.content or "")
        assert set(value) == {"ok", "kind"}
        assert isinstance(value["ok"], bool)
        assert answer.choices[0].finish_reason == "stop"


def test_any_json_object(client: openai.OpenAI) -> None:
    answers = [
        client.chat.completions.create(
            model=model(client),
            messages=ASK,
            seed=seed,
            temperature=1,
            max_tokens=60,
            response_format={"type": "json_object"},
        ).choices[0]
        for seed in range(6)
    ]
    assert all((answer.message.content or "").startswith("{") for answer in answers)
    # The others are strings without end, which only max_tokens cuts.
    whole = [answer.message.content or "" for answer in answers if answer.finish_reason == "stop"]
    assert whole
    assert all(isinstance(json.loads(text), dict) for text in whole)


def test_async_clients_at_once(talking: LiveServer) -> None:
    async def run() -> None:
        async with openai.AsyncOpenAI(base_url=f"{talking.url}/v1", api_key="none", max_retries=0) as client:
            name = (await client.models.list()).data[0].id

            async def ask(text: str) -> str:
                stream = await client.chat.completions.create(
                    model=name, messages=[{"role": "user", "content": text}], stream=True
                )
                return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

            answers = await asyncio.gather(*(ask(f"question {number}") for number in range(8)))
            assert answers == [SAYS] * 8

    asyncio.run(run())


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"temperature": 3}, "temperature", "invalid_request"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools", "unsupported_field"),
        ({"top_logprobs": 2}, "top_logprobs", "invalid_request"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens", "invalid_request"),
        ({"extra_body": {"min_q": 1}}, "min_q", "unsupported_field"),
        ({"logit_bias": {"9999": 1}}, "logit_bias", "invalid_request"),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": {"type": "no"}},
                }
            },
            "response_format",
            "invalid_schema",
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_refusals_name_the_field(
    client: openai.OpenAI, fields: dict[str, object], param: str, code: str, stream: bool
) -> None:
    arguments = {"model": model(client), "messages": ASK, "stream": stream, **fields}
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**arguments)  # type: ignore[call-overload]
    assert caught.value.code == code
    assert caught.value.param == param
    assert param in caught.value.message or code == "invalid_schema"
