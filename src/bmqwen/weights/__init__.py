"""What is on disk: configuration, weights, tokenizer files; and how they get there."""
