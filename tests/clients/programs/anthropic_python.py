"""anthropic: messages, a stream, count_tokens."""

import sys

import anthropic

URL = sys.argv[1]
client = anthropic.Anthropic(base_url=URL, api_key="none", max_retries=0)
ask = {"model": "demo", "messages": [{"role": "user", "content": "Say hi."}]}
assert client.messages.create(max_tokens=20, **ask).content[0].text
with client.messages.stream(max_tokens=20, **ask) as stream:
    assert "".join(stream.text_stream)
assert client.messages.count_tokens(**ask).input_tokens > 5
