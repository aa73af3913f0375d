"""Number formats as data: one row a format, and every fact about it in that row. Plain Python, no torch, no numpy.

weights.py      element types of weights and tables: u4, i8, f16, bf16, f32
activations.py  inputs of linears: 4 bits, 8 bits, float
cache.py        the KV cache: 4, 8, 32 bits; the widths of output head and embedding: 8, 16, 32
choices.py      widths to choose from, checked and listed
groups.py       granularity: how many columns share a scale, and the rule that says which sizes are possible
limits.py       the largest sizes of a model
words.py        the one writer that puts a scheme into words

Everyone else asks the row. A number of bits or a format's name that is compared elsewhere is a fact without a home; a
test (tests/formats/test_one_home.py) looks for the common ones.

A new weight format, say 3 bits, needs one row in `WEIGHTS` (weights.py). The row brings its recipe option, its checks,
its codes in compressed-tensors words, its bytes in an artifact and its words. What a row cannot say is the order of the
codes in memory, which the kernels set: one pair of functions in `PACKERS` (agq/artifact/layout.py), and in C the value
of the enum (kernels/include/agq.h) and the row of the kernels' traits.
"""

from agq.formats.activations import ACTIVATIONS, ActivationFormat, activation_format
from agq.formats.cache import EMBEDDING, HEAD, KV_CACHE, TABLES, CacheFormat, TableFormat, cache_format
from agq.formats.choices import Widths, any_of
from agq.formats.groups import FITTED, PER_ROW, Fitted, Granularity, PerGroup, PerRow
from agq.formats.weights import FLOATS, INTEGERS, SCALES, WEIGHTS, WeightFormat, integer_format, weight_format

__all__ = [
    "ACTIVATIONS",
    "EMBEDDING",
    "FITTED",
    "FLOATS",
    "HEAD",
    "INTEGERS",
    "KV_CACHE",
    "PER_ROW",
    "SCALES",
    "TABLES",
    "WEIGHTS",
    "ActivationFormat",
    "CacheFormat",
    "Fitted",
    "Granularity",
    "PerGroup",
    "PerRow",
    "TableFormat",
    "WeightFormat",
    "Widths",
    "activation_format",
    "any_of",
    "cache_format",
    "integer_format",
    "weight_format",
]
