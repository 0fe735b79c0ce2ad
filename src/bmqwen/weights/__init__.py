"""Readers of models on disk: safetensors, packed ones (GPTQ, AWQ), GGUF; opened and checked as a `Checkpoint`.

May import model and util.
"""
