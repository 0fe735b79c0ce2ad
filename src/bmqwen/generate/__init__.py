"""From messages to streamed text: tokenizer, template, sampler, session, conversation."""
