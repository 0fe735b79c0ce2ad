"""OpenAI's API of responses, over the same request and answer as chat completions."""
