"""LlamaIndex: complete, chat and stream."""

import sys

from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike

URL = sys.argv[1]
llm = OpenAILike(model="demo", api_base=f"{URL}/v1", api_key="none", is_chat_model=True, max_tokens=20)
assert str(llm.complete("Say hi."))
assert llm.chat([ChatMessage(role="user", content="Say hi.")]).message.content
assert list(llm.stream_complete("Say hi."))[-1].text
