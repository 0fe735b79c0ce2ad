"""pydantic-ai: text, structured output by its default (a tool), a tool of ours."""

import sys

from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

URL = sys.argv[1]
model = OpenAIChatModel("demo", provider=OpenAIProvider(base_url=f"{URL}/v1", api_key="none"))


class City(BaseModel):
    name: str
    population: int


settings = {"max_tokens": 200, "temperature": 0.0}
assert Agent(model, model_settings=settings).run_sync("Say hi.").output
found = Agent(model, output_type=City, model_settings=settings).run_sync("Paris has 2100000 people.").output
assert isinstance(found, City)
agent = Agent(model, model_settings=settings)


@agent.tool_plain
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


assert agent.run_sync("Use the tool: 17 + 25?").output
