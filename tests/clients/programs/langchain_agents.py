"""LangChain over responses, Anthropic's and Ollama's APIs: an agent with a tool, and a stream that has the call."""

import sys
from contextlib import suppress

from langchain.agents import create_agent
from langchain_anthropic import ChatAnthropic
from langchain_core.tools import tool
from langchain_ollama import ChatOllama
from langchain_openai import ChatOpenAI
from langgraph.errors import GraphRecursionError

URL = sys.argv[1]
CHATS = [
    ChatOpenAI(base_url=f"{URL}/v1", api_key="none", model="demo", temperature=0, use_responses_api=True),
    ChatAnthropic(base_url=URL, api_key="none", model="demo", temperature=0, max_tokens=200),
    ChatOllama(base_url=URL, model="demo", temperature=0, num_predict=200),
]
ASK = "What is the weather in Paris?"
cities: list[str] = []


@tool
def get_weather(city: str) -> str:
    """Get the current weather of a city."""
    cities.append(city)
    return f"It is sunny in {city}."


for chat in CHATS:
    whole = None
    for chunk in chat.bind_tools([get_weather]).stream(ASK):
        whole = chunk if whole is None else whole + chunk
    (call,) = whole.tool_calls
    assert (call["name"], call["args"]) == ("get_weather", {"city": "Paris"}), call
    # A small model may call for ever; each call was one.
    cities.clear()
    with suppress(GraphRecursionError):
        create_agent(chat, [get_weather]).invoke(
            {"messages": [{"role": "user", "content": ASK}]}, {"recursion_limit": 4}
        )
    assert cities[0] == "Paris"
