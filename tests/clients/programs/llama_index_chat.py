"""LlamaIndex: complete, chat and stream; a tool, an answer that is a model."""

import sys

from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel

URL = sys.argv[1]
cities: list[str] = []


def get_weather(city: str) -> str:
    """Get the current weather of a city."""
    cities.append(city)
    return f"It is sunny in {city}."


class City(BaseModel):
    name: str
    country: str


llm = OpenAILike(
    model="demo",
    api_base=f"{URL}/v1",
    api_key="none",
    is_chat_model=True,
    is_function_calling_model=True,
    max_tokens=100,
    temperature=0.0,
)
assert str(llm.complete("Say hi."))
assert llm.chat([ChatMessage(role="user", content="Say hi.")]).message.content
assert list(llm.stream_complete("Say hi."))[-1].text
assert llm.predict_and_call(
    [FunctionTool.from_defaults(get_weather)], "What is the weather in Paris?"
).response
assert cities == ["Paris"]
found = llm.as_structured_llm(City).complete("Paris is the capital of France.")
assert isinstance(found.raw, City)
