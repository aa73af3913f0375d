"""Tuning after the solver: scales and rounding of the quantized weights are trained, the whole model towards the
original's predictions (whole.py), or block by block towards its hidden states (blocks.py). How long, effort.py says."""
