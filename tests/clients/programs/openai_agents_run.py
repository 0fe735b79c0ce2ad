"""openai-agents over chat completions: a run with a tool, and a handoff that may be taken."""

import sys
from contextlib import suppress

import openai
from agents import (
    Agent,
    MaxTurnsExceeded,
    ModelSettings,
    OpenAIChatCompletionsModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)

URL = sys.argv[1]
set_tracing_disabled(True)
model = OpenAIChatCompletionsModel(
    model="demo", openai_client=openai.AsyncOpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0)
)
settings = ModelSettings(max_tokens=100, temperature=0.0)


@function_tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


other = Agent(name="French", instructions="Answer in French.", model=model, model_settings=settings)
agent = Agent(
    name="Helper",
    instructions="Be brief.",
    model=model,
    model_settings=settings,
    tools=[add],
    handoffs=[other],
)
# A small model may call for ever; each call was one.
with suppress(MaxTurnsExceeded):
    assert Runner.run_sync(agent, "What is 17 + 25?", max_turns=3).final_output is not None
