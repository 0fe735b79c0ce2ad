"""ollama: list, show, chat, generate, streams."""

import sys

import ollama

URL = sys.argv[1]
client = ollama.Client(host=URL)
assert client.list().models
options = {"num_predict": 20, "temperature": 0}
ask = [{"role": "user", "content": "Say hi."}]
assert client.show("demo").capabilities
assert client.chat(model="demo", messages=ask, options=options).message.content
assert "".join(
    part.message.content or ""
    for part in client.chat(model="demo", messages=ask, options=options, stream=True)
)
assert client.generate(model="demo", prompt="Say hi.", options=options).response
