"""The three sentences at the top of a page: how much accuracy went, by what, and where."""

from __future__ import annotations

import math

from agq.formats.effective import number
from agq.report.errors import decibels, place, weight_ratios
from agq.report.facts import Subject
from agq.report.losses import Losses
from agq.report.measure import Observed


def story(subject: Subject, losses: Losses | None, observed: Observed | None) -> list[str]:
    """Three sentences, each with what is known."""
    return [_much(subject, losses), _by_what(subject, losses), _where(subject, observed)]


def _much(subject: Subject, losses: Losses | None) -> str:
    what = f"{subject.scheme or 'quantized'} model"
    if losses is None:
        return f"How much accuracy this {what} lost is not known: its perplexity was not measured."
    if losses.original is None or losses.ratio is None:
        return (
            f"This {what} has a perplexity of {losses.whole.ppl:.2f}; how much that is above the original's is not "
            "known, since the original was not named."
        )
    change = losses.ratio - 1
    words = f"{100 * change:.1f} % above" if change >= 0 else f"{-100 * change:.1f} % below"
    return f"This {what} has a perplexity of {losses.whole.ppl:.2f}, {words} the original's {losses.original.ppl:.2f}."


def _by_what(subject: Subject, losses: Losses | None) -> str:
    bits = _bits(subject)
    share = None if losses is None else losses.share_of_weights
    if share is None:
        return f"{_rest(losses)}; {bits}."
    return (
        f"The weights, of {subject.values['bits_per_weight']:.2f} bits, cause {100 * share:.0f} % of that, inputs of "
        f"linears, cache and head {100 * (1 - share):.0f} %; {bits}."
    )


def _rest(losses: Losses | None) -> str:
    """What inputs, cache and head cost, where the weights' share is not known."""
    if losses is None or losses.weights is None:
        return "What the weights and what the activations cost was not measured apart"
    change = 100 * (losses.whole.ppl / losses.weights.ppl - 1)
    return (
        f"Rounding inputs of linears, cache and head changes the perplexity of the quantized weights by {change:+.1f} %"
    )


def _bits(subject: Subject) -> str:
    found = subject.bits
    if found is None:
        return "inputs of linears are floats"
    told = f"inputs have {number(found.mean)} bits on average"
    if not found.raised_inputs:
        return told
    raised = sum(kind.inputs for kind in found.kinds if kind.raised)
    return f"{told}, and {raised} of {found.inputs} have a finer format than the scheme's"


def _where(subject: Subject, observed: Observed | None) -> str:
    rounding = {} if observed is None else {name: ratio.sqnr for name, ratio in observed.rounding.items()}
    parts = []
    for what, ratios in (("weights", weight_ratios(subject, observed)), ("inputs", rounding)):
        finite = {name: value for name, value in ratios.items() if math.isfinite(value)}
        if finite:
            worst = min(finite, key=lambda name: finite[name])
            index, role = place(worst)
            parts.append((what, f"{role} of block {index} ({decibels(finite[worst])})"))
    if not parts:
        return "Where in the model it was lost is not known: no errors of layers were recorded or measured."
    told = [f"rounding the {what} costs {layer} most" for what, layer in parts]
    return f"Of single layers, {' and '.join(told)}."
