"""How far forms of a model are from the original: its answers to prompts and its predictions over texts, compared.

Models are loaded one after another. Torch only where a sentence model judges the answers.
"""

from agq.comparison.answers import AnswerDistance, Summary
from agq.comparison.page import to_html
from agq.comparison.prompts import Prompt, PromptSet, own_prompts, read_prompts
from agq.comparison.results import Compared, Comparison, Computed
from agq.comparison.runner import compare
from agq.comparison.tasks import read_tasks
from agq.comparison.texts import TextDistance

__all__ = [
    "AnswerDistance",
    "Compared",
    "Comparison",
    "Computed",
    "Prompt",
    "PromptSet",
    "Summary",
    "TextDistance",
    "compare",
    "own_prompts",
    "read_prompts",
    "read_tasks",
    "to_html",
]
