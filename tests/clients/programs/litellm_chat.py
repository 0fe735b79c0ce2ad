"""LiteLLM: completion, stream and text completion through its OpenAI provider."""

import sys

import litellm

URL = sys.argv[1]
ask = {"model": "openai/demo", "api_base": f"{URL}/v1", "api_key": "none", "max_tokens": 20}
messages = [{"role": "user", "content": "Say hi."}]
assert litellm.completion(messages=messages, **ask).choices[0].message.content
parts = [
    part.choices[0].delta.content or "" for part in litellm.completion(messages=messages, stream=True, **ask)
]
assert "".join(parts)
text = litellm.text_completion(prompt="Once", **{**ask, "model": "text-completion-openai/demo"})
assert text.choices[0].text
