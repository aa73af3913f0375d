"""What is to be done to a model, as plain data: number formats (`schemes`), weight solvers (`methods`), options of each
step (`options`, `agile`, `pruning`), the Recipe that holds them (`recipe`), what a call asks for beside it (`changes`,
derived from the fields by `declaration`), recipes and presets on disk (`files`), and from these to the recipe that is
run (`resolve`). No torch, no numpy.
"""

from agq.recipe.agile import AgileOptions
from agq.recipe.files import load_recipe
from agq.recipe.methods import METHODS, Method
from agq.recipe.models import resolve_model
from agq.recipe.options import CalibrationSpec, GptqOptions, TransformOptions, TuneOptions
from agq.recipe.pruning import PruningOptions
from agq.recipe.recipe import Recipe, no_sinks
from agq.recipe.schemes import (
    SCHEMES,
    ActivationScheme,
    Override,
    Scheme,
    WeightScheme,
    check_pattern,
    pattern_matches,
)
from agq.recipe.target import TargetOptions

__all__ = [
    "METHODS",
    "SCHEMES",
    "ActivationScheme",
    "AgileOptions",
    "CalibrationSpec",
    "GptqOptions",
    "Method",
    "Override",
    "PruningOptions",
    "Recipe",
    "Scheme",
    "TargetOptions",
    "TransformOptions",
    "TuneOptions",
    "WeightScheme",
    "check_pattern",
    "load_recipe",
    "no_sinks",
    "pattern_matches",
    "resolve_model",
]
