"""pydantic-ai over responses: a tool, and an answer that is a model."""

import sys
from contextlib import suppress

from pydantic import BaseModel
from pydantic_ai import Agent, UsageLimitExceeded, UsageLimits
from pydantic_ai.models.openai import OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

URL = sys.argv[1]
cities: list[str] = []


def get_weather(city: str) -> str:
    """Get the current weather of a city."""
    cities.append(city)
    return f"It is sunny in {city}."


class City(BaseModel):
    name: str
    country: str


settings = {"max_tokens": 200, "temperature": 0.0}
model = OpenAIResponsesModel("demo", provider=OpenAIProvider(base_url=f"{URL}/v1", api_key="none"))
# A small model may call for ever; each call was one.
with suppress(UsageLimitExceeded):
    agent = Agent(model, tools=[get_weather], model_settings=settings)
    agent.run_sync("What is the weather in Paris?", usage_limits=UsageLimits(request_limit=2))
assert cities[0] == "Paris"
typed = Agent(model, output_type=City, model_settings=settings)
assert isinstance(typed.run_sync("Paris is the capital of France.").output, City)
