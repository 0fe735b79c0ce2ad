"""Ollama's API, over the same request and answer as chat completions."""
