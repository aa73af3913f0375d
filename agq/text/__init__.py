"""Text for calibration and evaluation: sources, tokenizers, windows of tokens."""
