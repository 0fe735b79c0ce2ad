"""The server: OpenAI's API (http/) and a web page (page/), in front of engines in processes of their own (pool/).

May import engine, generate, runtime and artifact.
"""
