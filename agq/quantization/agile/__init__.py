"""Agile-Quant (arXiv 2312.05693): static activation quantizers with per-channel powers of two, and their calibration
(imports torch)."""
