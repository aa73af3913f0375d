"""Perplexity by its four published definitions, and distances between two forms of a model. Torch only where a folder
is computed.
"""

from agq.evaluation.engine_scorer import EngineScorer
from agq.evaluation.evaluate import Evaluation, evaluate_perplexity
from agq.evaluation.methods import METHODS, Plan, Window, plan_documents, plan_tokens
from agq.evaluation.opening import open_scorer
from agq.evaluation.perplexity import Divergence, PerplexityResult, compare_plan, evaluate_plan, perplexity
from agq.evaluation.reference_scorer import ReferenceScorer
from agq.evaluation.scorers import FunctionScorer, Scorer

__all__ = [
    "METHODS",
    "Divergence",
    "EngineScorer",
    "Evaluation",
    "FunctionScorer",
    "PerplexityResult",
    "Plan",
    "ReferenceScorer",
    "Scorer",
    "Window",
    "compare_plan",
    "evaluate_perplexity",
    "evaluate_plan",
    "open_scorer",
    "perplexity",
    "plan_documents",
    "plan_tokens",
]
