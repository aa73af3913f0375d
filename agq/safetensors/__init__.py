"""safetensors files: the reader, and the only writer."""
