"""outlines: an object of a type through an OpenAI-compatible server."""

import sys

import openai
import outlines
from pydantic import BaseModel

URL = sys.argv[1]


class City(BaseModel):
    name: str
    population: int


model = outlines.from_openai(openai.OpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0), "demo")
City.model_validate_json(model("Paris has 2100000 people.", City, max_tokens=200))
