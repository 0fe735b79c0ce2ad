"""openai-agents over both of OpenAI's APIs: a streamed run, a handoff, an answer that is a model."""

import asyncio
import sys
from contextlib import suppress

import openai
from agents import (
    Agent,
    MaxTurnsExceeded,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from pydantic import BaseModel

URL = sys.argv[1]
set_tracing_disabled(True)
settings = ModelSettings(max_tokens=200, temperature=0.0)
cities: list[str] = []


@function_tool
def get_weather(city: str) -> str:
    """Get the current weather of a city."""
    cities.append(city)
    return f"It is sunny in {city}."


class City(BaseModel):
    name: str
    country: str


async def run(kind: type) -> None:
    model = kind("demo", openai.AsyncOpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0))
    weather = Agent("weather", model=model, model_settings=settings, tools=[get_weather])
    cities.clear()
    # A small model may call for ever; each call was one.
    with suppress(MaxTurnsExceeded):
        async for _ in Runner.run_streamed(
            weather, "What is the weather in Paris?", max_turns=2
        ).stream_events():
            pass
    assert cities[0] == "Paris"
    french = Agent("french", model=model, instructions="Answer in French.", model_settings=settings)
    first = Agent(
        "triage",
        model=model,
        instructions="Hand the conversation off.",
        handoffs=[french],
        model_settings=ModelSettings(max_tokens=200, temperature=0.0, tool_choice="required"),
    )
    result = await Runner.run(first, "Bonjour, comment allez-vous ?")
    assert result.last_agent is french
    assert result.final_output
    typed = Agent("city", model=model, output_type=City, model_settings=settings)
    assert isinstance((await Runner.run(typed, "Paris is the capital of France.")).final_output, City)


for kind in (OpenAIChatCompletionsModel, OpenAIResponsesModel):
    asyncio.run(run(kind))
