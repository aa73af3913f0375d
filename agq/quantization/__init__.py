"""Weight quantization: pure tensor functions and the one walk over the decoder blocks that uses them (imports
torch)."""
