"""ollama: tools and their results, an answer of a schema, what it asks about models, errors."""

import sys

import ollama
from pydantic import BaseModel

client = ollama.Client(sys.argv[1])
OPTIONS = {"temperature": 0, "num_predict": 200}
ASK = [{"role": "user", "content": "What is the weather in Paris?"}]


class City(BaseModel):
    name: str
    country: str


def get_weather(city: str) -> str:
    """Get the current weather of a city.

    Args:
        city: its name
    """
    return f"It is sunny in {city}."


assert client.list().models[0].model == "demo"
assert "tools" in client.show("demo").capabilities
assert client.ps().models[0].model == "demo"
answer = client.chat("demo", ASK, tools=[get_weather], options=OPTIONS)
call = answer.message.tool_calls[0].function
assert (call.name, call.arguments) == ("get_weather", {"city": "Paris"})
history = [*ASK, answer.message, {"role": "tool", "content": "sunny", "tool_name": "get_weather"}]
last = list(client.chat("demo", history, options=OPTIONS, stream=True))
assert last[-1].done
assert "".join(part.message.content for part in last)
formed = client.chat("demo", ASK, format=City.model_json_schema(), options=OPTIONS)
City.model_validate_json(formed.message.content)
assert client.generate("demo", "Say hi.", system="Be brief.", options=OPTIONS).response
refused = ""
try:
    client.chat("llama3", ASK)
except ollama.ResponseError as error:
    refused = str(error)
assert "this server has" in refused
