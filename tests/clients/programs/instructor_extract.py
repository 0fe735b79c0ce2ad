"""instructor: its default mode (tools) and JSON schema."""

import sys

import instructor
import openai
from pydantic import BaseModel

URL = sys.argv[1]


class City(BaseModel):
    name: str
    population: int


for mode in (None, instructor.Mode.JSON_SCHEMA):
    base = openai.OpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0)
    client = instructor.from_openai(base) if mode is None else instructor.from_openai(base, mode=mode)
    found = client.chat.completions.create(
        model="demo",
        messages=[{"role": "user", "content": "Paris has 2100000 people."}],
        response_model=City,
        max_tokens=200,
        temperature=0,
        max_retries=0,
    )
    assert isinstance(found, City)
