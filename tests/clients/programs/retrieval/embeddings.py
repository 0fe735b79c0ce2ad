"""Embeddings by LangChain's clients of OpenAI and of Ollama, and by Ollama's own."""

import sys

import ollama
from langchain_ollama import OllamaEmbeddings
from langchain_openai import OpenAIEmbeddings

URL = sys.argv[1]
TEXTS = ["The capital of China is Beijing.", "hello you"]

# Otherwise it sends token ids of OpenAI's models.
openai = OpenAIEmbeddings(
    base_url=f"{URL}/v1", api_key="none", model="embedder", check_embedding_ctx_length=False
)
vectors = openai.embed_documents(TEXTS)
assert [len(vector) for vector in vectors] == [64, 64]
assert abs(sum(x * x for x in vectors[0]) - 1) < 1e-4
langchain = OllamaEmbeddings(base_url=URL, model="embedder").embed_documents(TEXTS)
own = ollama.Client(URL).embed("embedder", TEXTS).embeddings
for others in (langchain, own):
    for one, other in zip(vectors, others, strict=True):
        assert max(abs(a - b) for a, b in zip(one, other, strict=True)) < 1e-5
