"""GGUF files: what llama.cpp and its relatives store models in, opened as a checkpoint (docs/gguf.md)."""
