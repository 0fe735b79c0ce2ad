"""LangChain: invoke, stream, structured output by its default method, an agent with a tool."""

import sys
from contextlib import suppress

from langchain.agents import create_agent
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.errors import GraphRecursionError
from pydantic import BaseModel

URL = sys.argv[1]
llm = ChatOpenAI(base_url=f"{URL}/v1", api_key="none", model="demo", max_tokens=100, temperature=0)
assert llm.invoke("Say hi.").content
assert "".join(chunk.content for chunk in llm.stream("Say hi."))


class City(BaseModel):
    name: str
    population: int


assert isinstance(llm.with_structured_output(City).invoke("A city of France with its population."), City)


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


agent = create_agent(llm, [add])
# A small model may call for ever; each call was one.
with suppress(GraphRecursionError):
    question = {"messages": [{"role": "user", "content": "Use the tool: 17 + 25?"}]}
    assert agent.invoke(question, {"recursion_limit": 6})["messages"][-1].content
