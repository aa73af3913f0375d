"""Hugging Face folders: plain ones and quantized ones in compressed-tensors format."""

from agq.checkpoint.base import Checkpoint
from agq.checkpoint.compressed_tensors import CompressedTensors, StoredLinear, read_linear
from agq.checkpoint.folder import TOKENIZER_FILES, FolderCheckpoint, open_checkpoint

__all__ = [
    "TOKENIZER_FILES",
    "Checkpoint",
    "CompressedTensors",
    "FolderCheckpoint",
    "StoredLinear",
    "open_checkpoint",
    "read_linear",
]
