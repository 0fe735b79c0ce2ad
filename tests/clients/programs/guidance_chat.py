"""guidance: a conversation of two turns, and JSON of a schema, through an OpenAI-compatible server."""

import json
import sys

import guidance
from guidance import assistant, gen, system, user

URL = sys.argv[1]
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}},
    "required": ["name"],
    "additionalProperties": False,
}
model = guidance.models.OpenAI("demo", base_url=f"{URL}/v1", api_key="none", echo=False)
with system():
    model += "Be brief."
with user():
    model += "Say hi."
with assistant():
    model += gen("greeting", max_tokens=20)
assert model["greeting"]
with user():
    model += "The capital of France, as JSON."
with assistant():
    model += guidance.json(name="city", schema=SCHEMA)
assert set(json.loads(model["city"])) == {"name"}
