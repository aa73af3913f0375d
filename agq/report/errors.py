"""The section of errors: of each linear by the rounding of its weights and of its input, of each block against the
original."""

from __future__ import annotations

import math

from agq.report.document import Chart, Heat, Lines, Missing, Section, Series
from agq.report.facts import Subject
from agq.report.measure import Observed
from agq.report.ratios import Comparison, sqnr
from agq.report.reasons import NOT_SAID

# Ratios in dB between which a cell of an error map goes from dark to light.
_BAD, _GOOD = 10.0, 35.0


def badness(decibels: float) -> float:
    """Darkness of a cell: 1 at 10 dB and below, 0 at 35 dB and above."""
    return min(max((_GOOD - decibels) / (_GOOD - _BAD), 0.0), 1.0)


def decibels(value: float) -> str:
    """A ratio for people."""
    return "exact" if value == math.inf else f"{value:.1f} dB"


def weight_ratios(subject: Subject, observed: Observed | None) -> dict[str, float]:
    """Module -> signal-to-quantization-noise ratio in dB of its output, by the rounding of its weights: as observed,
    else the solver's relative error on the calibration text. Modules without such a figure are left out."""
    if observed is not None and observed.weights:
        return {module: ratio.sqnr for module, ratio in observed.weights.items()}
    found = {}
    for layer in subject.layers:
        if isinstance(layer.get("relative"), int | float):
            found[layer["module"]] = sqnr(1.0, layer["relative"])
    return found


def errors(subject: Subject, observed: Observed | None, comparison: Comparison, reason: str) -> Section:
    """Error per linear and per block. reason: why nothing was observed."""
    section = Section(
        "Error of each layer",
        "The signal-to-quantization-noise ratio (SQNR) of a layer's output: 10 dB is an error of a tenth of its power, "
        "20 dB of a hundredth. Strong colours mark large errors.",
    )
    weights = weight_ratios(subject, observed)
    seen = observed is not None and bool(observed.weights)
    if weights:
        text = "this page's" if seen else "calibration"
        section.items.append(_map(subject, f"Rounding the weights (on {text} text)", weights))
        tuned = subject.tuning
        if tuned is not None and tuned.get("kept") and not seen:
            section.items.append(
                Missing("the weights' errors after tuning; the map shows those before it, as the solver left them")
            )
    else:
        section.items.append(Missing(f"errors of the weights: {_no_weights(subject)}"))
    if observed is None:
        section.items.append(Missing(f"what rounding the inputs costs: {reason}"))
    elif observed.rounding:
        ratios = {module: ratio.sqnr for module, ratio in observed.rounding.items()}
        section.items.append(_map(subject, "Rounding the inputs (on this page's text)", ratios))
    else:
        section.items.append(Missing("what rounding the inputs costs: they are floats"))
    if comparison.blocks:
        values = [ratio.sqnr for ratio in comparison.blocks]
        section.items.append(
            Lines(
                "Hidden states after each block, against the original's",
                "block",
                "SQNR, dB",
                range(len(values)),
                [Series("", values)],
            )
        )
    else:
        section.items.append(Missing(f"hidden states against the original's: {comparison.reason}"))
    return section


def _no_weights(subject: Subject) -> str:
    if not subject.layers:
        return NOT_SAID
    return "it was rounded without calibration text, and the original, not transformed, is not at hand"


def _map(subject: Subject, title: str, ratios: dict[str, float]) -> Chart:
    """A grid of blocks and roles."""
    places = {}
    for name in ratios:
        index, role = place(name)
        places[role, index] = ratios[name]
    roles = list(dict.fromkeys(role for role, _ in places))
    columns = range(subject.spec.layers)
    cells = [
        [
            (decibels(places[role, index]), badness(places[role, index])) if (role, index) in places else None
            for index in columns
        ]
        for role in roles
    ]
    return Heat(title, "block", roles, [str(index) for index in columns], cells, f"{_GOOD:.0f} dB", f"{_BAD:.0f} dB")


def place(module: str) -> tuple[int, str]:
    """Block and last word of a module's name, without `_proj`."""
    words = module.split(".")
    index = next(int(word) for word in words if word.isdigit())
    return index, words[-1].removesuffix("_proj")
