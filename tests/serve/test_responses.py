"""OpenAI's responses through its client: items, their streams, conversations that go on, and errors."""

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from bmqwen.errors import NotFoundError, RequestError
from bmqwen.serve.http.openai_responses.store import KeptResponse, ResponseStore
from support.hermes import PARIS, WEATHER, server_saying
from support.toy_server import ToyServer
from support.toy_tokenizer import HERMES, toy_template

TOOL: Any = {"type": "function", **WEATHER["function"]}


def client(server: ToyServer) -> openai.OpenAI:
    return openai.OpenAI(base_url="http://testserver/v1", api_key="none", max_retries=0, http_client=server)


@pytest.fixture(scope="module")
def toy() -> Iterator[ToyServer]:
    with ToyServer(template=toy_template(HERMES)) as server:
        yield server


def outline(response: Any) -> list[Any]:
    """The items of a response without ids."""
    items = [item.model_dump(exclude_none=True) for item in response.output]
    return [{name: value for name, value in item.items() if name not in ("id", "call_id")} for item in items]


def test_a_conversation_that_goes_on_by_its_id() -> None:
    with server_saying(f"Let me see.\n{PARIS}", "It rains.", "Bye.") as server:
        ask = client(server).responses.create
        first = ask(model="toy", input="?", instructions="Be brief.", tools=[TOOL], temperature=0)
        assert first.status == "completed"
        assert first.output_text == "Let me see."
        call = first.output[1]
        assert call.type == "function_call"
        assert (call.name, json.loads(call.arguments)) == ("weather", {"city": "Paris"})
        with client(server).responses.stream(
            model="toy", input="?", instructions="Be brief.", tools=[TOOL], temperature=0
        ) as stream:
            events = list(stream)
            assert outline(stream.get_final_response()) == outline(first)
        assert [event.sequence_number for event in events] == list(range(len(events)))
        assert events[0].type == "response.created"
        assert events[-1].type == "response.completed"
        assert sum(event.type == "response.function_call_arguments.delta" for event in events) > 2
        result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
        second = ask(
            model="toy",
            input=[result],
            instructions="Be brief.",
            previous_response_id=first.id,
            tools=[TOOL],
            temperature=0,
        )
        assert second.output_text == "It rains."
        assert second.usage is not None
        assert second.usage.input_tokens_details.cached_tokens > 20
        # The same without the server's memory.
        whole: list[Any] = [
            {"role": "user", "content": "?"},
            *[item.model_dump() for item in first.output],
            result,
        ]
        again = ask(
            model="toy", input=whole, instructions="Be brief.", tools=[TOOL], temperature=0, store=False
        )
        assert again.usage is not None
        assert again.usage.input_tokens == second.usage.input_tokens
        assert outline(again) == outline(second)
        third = ask(model="toy", input="Thanks", previous_response_id=second.id, temperature=0)
        assert third.output_text == "Bye."
        with pytest.raises(openai.BadRequestError, match="send the whole conversation"):
            ask(model="toy", input="?", previous_response_id=again.id)


def test_a_response_can_be_asked_for_again(toy: ToyServer) -> None:
    responses = client(toy).responses
    first = responses.create(model="toy", input="?", max_output_tokens=4)
    assert responses.retrieve(first.id) == first
    (item,) = responses.input_items.list(first.id)
    assert item.type == "message"
    # What clients call their items does not count: one here would be asked for again and again.
    items: list[Any] = [{"role": "user", "content": str(number), "id": "item_0"} for number in range(5)]
    many = responses.create(
        model="toy",
        input=items,
        max_output_tokens=4,
        previous_response_id=first.id,
    )
    listed = responses.input_items.list(many.id, limit=2, order="asc")
    assert [item.content for item in listed] == [str(number) for number in range(5)]  # type: ignore[union-attr]
    responses.delete(first.id)
    for ask in (responses.retrieve, responses.delete, responses.input_items.list):
        with pytest.raises(openai.NotFoundError, match="there is no response"):
            ask(first.id)
    refused = toy.put(f"/v1/responses/{many.id}")
    assert (refused.status_code, refused.headers["allow"]) == (405, "DELETE, GET")
    with pytest.raises(openai.BadRequestError, match="leave stream out"):
        responses.retrieve(many.id, stream=True)
    # What is deleted is no longer gone on from; what went on from it has all of the conversation.
    with pytest.raises(openai.BadRequestError, match="send the whole conversation"):
        responses.create(model="toy", input="?", previous_response_id=first.id)
    assert responses.create(model="toy", input="?", previous_response_id=many.id, max_output_tokens=4)


def test_the_same_answer_as_chat_completions(toy: ToyServer) -> None:
    chat = toy.chat("?", temperature=0).json()
    response = client(toy).responses.create(
        model="toy",
        input=[{"role": "user", "content": [{"type": "input_text", "text": "?"}]}],
        max_output_tokens=8,
        temperature=0,
        include=["message.output_text.logprobs"],
        top_logprobs=1,
    )
    assert response.output_text == chat["choices"][0]["message"]["content"]
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    logprobs = response.output[0].model_dump()["content"][0]["logprobs"]
    assert len(logprobs) == 8
    assert logprobs[0]["top_logprobs"][0]["token"] == logprobs[0]["token"]


def test_forms_and_tools_that_must_be_called(toy: ToyServer) -> None:
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]}
    text: Any = {"format": {"type": "json_schema", "name": "it", "schema": schema, "strict": True}}
    response = client(toy).responses.create(
        model="toy", input="?", text=text, temperature=1.5, max_output_tokens=300
    )
    assert json.loads(response.output_text)["a"] in (1, 2)
    choices: list[Any] = ["required", {"type": "function", "name": "weather"}]
    allowed = {
        "type": "allowed_tools",
        "mode": "required",
        "tools": [{"type": "function", "name": "weather"}],
    }
    for choice in [*choices, allowed]:
        response = client(toy).responses.create(
            model="toy",
            input="?",
            tools=[TOOL],
            tool_choice=choice,
            parallel_tool_calls=False,
            temperature=1.5,
        )
        assert [item.type for item in response.output] == ["function_call"]


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"input": 5}, "input", "input is 5"),
        ({"input": None}, "input", "input"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type", "item_reference"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
            "input[0].content[0].type",
            "takes no pictures",
        ),
        ({"input": [{"type": "function_call_output", "call_id": "x", "output": "y"}]}, None, "the call 'x'"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "web_search"),
        ({"previous_response_id": "resp_1"}, "previous_response_id", "there is no response 'resp_1'"),
        ({"background": True}, "background", "background"),
        ({"prompt": {"id": "x"}}, "prompt", "prompt"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format", "has no schema"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_bad_input(
    toy: ToyServer, fields: dict[str, Any], param: str | None, message: str, stream: bool
) -> None:
    response = toy.post("/v1/responses", json={"input": "?", "stream": stream} | fields)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert message in error["message"]
    assert param is None or error["param"] == param


def test_the_store_is_bounded_and_each_owners_own() -> None:
    store = ResponseStore(responses=3, characters=200)

    def response(text: str = "x") -> KeptResponse:
        return KeptResponse([{"role": "user", "content": text}], {}, [])

    for number in range(5):
        store.put("a", f"resp_{number}", response())
    store.put("b", "resp_b", KeptResponse([], {}, []))
    assert store.before("a", "resp_4")
    assert store.before("b", "resp_b") == []
    for owner, name in (("a", "resp_1"), ("b", "resp_4"), ("c", "resp_4")):
        with pytest.raises(RequestError, match="no longer"):
            store.before(owner, name)
        with pytest.raises(NotFoundError, match="no longer"):
            store.remove(owner, name)
    store.put("a", "large", response("x" * 500))
    with pytest.raises(NotFoundError):
        store.find("a", "resp_4")
