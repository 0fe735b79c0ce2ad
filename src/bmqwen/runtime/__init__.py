"""Runtimes: they read prompts, take an answer's tokens, and give logits.

A new one is a module here and an entry in `registry`. May import artifact, model, chip and util: a device has no more.
"""
