"""instructor with its default, a call of a tool, over both APIs; several answers in a stream."""

import sys

import anthropic
import instructor
import openai
from pydantic import BaseModel

URL = sys.argv[1]
ASK = [{"role": "user", "content": "Paris is the capital of France."}]


class City(BaseModel):
    name: str
    country: str


fields = {"model": "demo", "messages": ASK, "response_model": City, "max_tokens": 200, "temperature": 0}
chat = instructor.from_openai(openai.OpenAI(base_url=f"{URL}/v1", api_key="none"))
assert isinstance(chat.chat.completions.create(**fields), City)
assert isinstance(next(iter(chat.chat.completions.create_iterable(**fields))), City)
del fields["temperature"]
messages = instructor.from_anthropic(anthropic.Anthropic(base_url=URL, api_key="none"))
assert isinstance(messages.messages.create(**fields), City)
