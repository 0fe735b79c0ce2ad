"""pydantic-ai: text, structured output by its default (a tool), a tool of ours."""

import sys
from contextlib import suppress

from pydantic import BaseModel
from pydantic_ai import Agent, UsageLimitExceeded, UsageLimits
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

URL = sys.argv[1]
model = OpenAIChatModel("demo", provider=OpenAIProvider(base_url=f"{URL}/v1", api_key="none"))


class City(BaseModel):
    name: str
    population: int


settings = {"max_tokens": 100, "temperature": 0.0, "parallel_tool_calls": False}
assert Agent(model, model_settings=settings).run_sync("Say hi.").output
found = Agent(model, output_type=City, model_settings=settings).run_sync("Paris has 2100000 people.").output
assert isinstance(found, City)
agent = Agent(model, model_settings=settings)


@agent.tool_plain
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


# A small model may call for ever; each call was one.
with suppress(UsageLimitExceeded):
    assert agent.run_sync("Use the tool: 17 + 25?", usage_limits=UsageLimits(request_limit=3)).output
