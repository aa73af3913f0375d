"""The clip search of weight scales, as numbers: which shares of a group's range are tried, and how errors count."""

from __future__ import annotations

# Exponent of the error norm that the search minimises; 2.4 is the value of the GPTQ and QuaRot code.
NORM = 2.4
# Shares of the range: 1.00, 0.99, ... down to 0.40. Ties go to the larger one.
_STEPS, _SMALLEST = 60, 0.40
SHARES = tuple(1.0 - step * (1.0 - _SMALLEST) / _STEPS for step in range(_STEPS + 1))
