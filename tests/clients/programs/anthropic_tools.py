"""anthropic: tools and their results, the tool runner, parsed answers, errors; and the requests of Claude Code."""

import json
import sys

import anthropic
import httpx
from pydantic import BaseModel

URL = sys.argv[1]
client = anthropic.Anthropic(base_url=URL, api_key="none", max_retries=0)
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"name": "get_weather", "description": "Get the current weather of a city", "input_schema": SCHEMA}
ASK = [{"role": "user", "content": "What is the weather in Paris?"}]


class City(BaseModel):
    name: str
    country: str


answer = client.messages.create(
    model="demo", max_tokens=200, tools=[TOOL], messages=ASK, tool_choice={"type": "any"}
)
assert answer.stop_reason == "tool_use"
(call,) = answer.content
result = {"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}
history = [*ASK, {"role": "assistant", "content": answer.content}, {"role": "user", "content": [result]}]
with client.messages.stream(
    model="demo", max_tokens=100, tools=[TOOL], messages=history, tool_choice={"type": "none"}
) as stream:
    assert "".join(stream.text_stream)
    assert stream.get_final_message().stop_reason in ("end_turn", "max_tokens")
with client.messages.stream(
    model="demo", max_tokens=100, tools=[TOOL], messages=ASK, extra_body={"temperature": 0}
) as stream:
    (called,) = stream.get_final_message().content
assert called.input == {"city": "Paris"}
parsed = client.messages.parse(model="demo", max_tokens=200, messages=ASK, output_format=City)
assert isinstance(parsed.parsed_output, City)
assert client.models.list().data[0].id == "demo"
cities: list[str] = []


@anthropic.beta_tool
def get_weather(city: str) -> str:
    """Get the current weather of a city.

    Args:
        city: its name
    """
    cities.append(city)
    return f"It is sunny in {city}."


runner = client.beta.messages.tool_runner(
    model="demo", max_tokens=200, tools=[get_weather], messages=ASK, max_iterations=2
)
reasons = [message.stop_reason for message in runner]
assert reasons[0] == "tool_use"
assert cities[0] == "Paris"
refused = ""
try:
    client.messages.create(model="claude-sonnet-4-5", max_tokens=5, messages=ASK)
except anthropic.NotFoundError as error:
    refused = str(error)
assert "this server has" in refused
image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
refused = ""
try:
    client.messages.create(model="demo", max_tokens=5, messages=[{"role": "user", "content": [image]}])
except anthropic.BadRequestError as error:
    refused = str(error)
assert "takes no pictures" in refused

# What Claude Code sends: blocks with cache_control, schemas with $schema, a budget for thoughts, headers of betas.
read = {
    "name": "Read",
    "description": "Reads a file from the local filesystem.",
    "input_schema": {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {
            "file_path": {"type": "string", "description": "The absolute path"},
            "offset": {"type": "integer", "exclusiveMinimum": 0, "maximum": 9007199254740991},
        },
        "required": ["file_path"],
        "additionalProperties": False,
    },
}
kept = {"cache_control": {"type": "ephemeral"}}
body = {
    "model": "demo",
    "max_tokens": 32000,
    "temperature": 1,
    "stream": True,
    "system": [
        {"type": "text", "text": "You are a coding agent.", **kept},
        {"type": "text", "text": "Be brief.", **kept},
    ],
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "<system-reminder>x</system-reminder>"}]},
        {"role": "user", "content": [{"type": "text", "text": "Say hi.", **kept}]},
    ],
    "tools": [read],
    "metadata": {"user_id": f"user_{'a' * 64}_account__session_{'b' * 36}"},
    "thinking": {"type": "enabled", "budget_tokens": 31999},
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
}
headers = {"x-api-key": "none", "anthropic-version": "2023-06-01", "anthropic-beta": "claude-code-20250219"}
response = httpx.post(f"{URL}/v1/messages?beta=true", json=body, headers=headers, timeout=300)
assert response.status_code == 200, response.text
events = [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: ")]
assert [events[0]["type"], events[-1]["type"]] == ["message_start", "message_stop"]
