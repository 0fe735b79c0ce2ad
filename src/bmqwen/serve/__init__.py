"""The server: OpenAI's API and a web page, in front of engines in processes of their own."""
