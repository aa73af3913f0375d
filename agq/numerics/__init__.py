"""Quantization arithmetic on torch tensors: grids, fake quantization, Hadamard transforms, TRIP."""
