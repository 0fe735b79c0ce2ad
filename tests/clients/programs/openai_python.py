"""openai: chat, stream, structured output, legacy completions with a suffix."""

import sys

import openai
from pydantic import BaseModel

URL = sys.argv[1]
client = openai.OpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0)
model = client.models.list().data[0].id
ask = [{"role": "user", "content": "What is 17 + 25? Answer with the number only."}]

answer = client.chat.completions.create(
    model=model, messages=ask, max_tokens=8, store=True, metadata={"a": "b"}, service_tier="auto"
)
assert answer.choices[0].message.content
raw = client.chat.completions.with_raw_response.create(model=model, messages=ask, max_tokens=8, store=True)
assert raw.headers["x-bmqwen-ignored"] == "store"
assert raw.headers["x-request-id"]
chunks = list(client.chat.completions.create(model=model, messages=ask, max_tokens=8, stream=True))
assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


class City(BaseModel):
    name: str
    population: int


parsed = client.chat.completions.parse(
    model=model,
    messages=[{"role": "user", "content": "A city as JSON."}],
    response_format=City,
    max_tokens=200,
)
assert isinstance(parsed.choices[0].message.parsed, City)
middle = client.completions.create(
    model=model, prompt="def add(a, b):\n    return ", suffix="\n", max_tokens=8
)
assert middle.choices[0].finish_reason in ("stop", "length")
scored = client.completions.create(model=model, prompt="one two three", echo=True, logprobs=1, max_tokens=0)
assert scored.choices[0].text == "one two three"
assert scored.choices[0].logprobs.token_logprobs[0] is None
