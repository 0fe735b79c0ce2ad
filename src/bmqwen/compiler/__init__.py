"""The vendor's compiler, driven: toolchain, pipeline, timing and memory models."""
