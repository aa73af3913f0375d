"""Solvers: how the weights of a linear are rounded to codes."""
