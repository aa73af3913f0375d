"""Running a packed artifact: the C library, the engine, tokenizer, sampling and generation. Needs numpy, cffi and
tokenizers only.
"""
