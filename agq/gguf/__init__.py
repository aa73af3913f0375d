"""GGUF files: metadata, tokenizer and tensors of a model in one file."""
