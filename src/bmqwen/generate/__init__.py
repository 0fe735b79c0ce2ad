"""From messages to streamed text: tokenizer, template, sampling parameters, sampler, session, conversation.

May import runtime, model and util: a device loads this room.
"""
