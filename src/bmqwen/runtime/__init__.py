"""Runtimes: feed token ids at a position, get logits."""
