"""A model's tokenizer: the files that say what it is; texts to token ids and back. The `tokenizers` library does the
work: no torch, no transformers.
"""
