"""A picture of a sweep: relative perplexity of every row, one panel a model. Needs matplotlib (`pip install
'.[plot]'` in the source folder)."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from agq.errors import AgqError
from agq.files import atomic_writer
from agq.sweep.definition import Sweep
from agq.sweep.report import by_name, relative


def check_available() -> None:
    """Raises AgqError where matplotlib is missing."""
    if importlib.util.find_spec("matplotlib") is None:
        raise AgqError(
            "the plot needs matplotlib, which is not installed", hint="pip install matplotlib, or use `plot: false`"
        )


def write_plot(path: Path, sweep: Sweep, records: list[dict[str, Any]]) -> None:
    """Writes an SVG: excess perplexity in percent on a logarithmic axis, a dot a text."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "agq"  # the same records give the same bytes
    from matplotlib import pyplot

    table = by_name(records)
    figure, panels = pyplot.subplots(
        1, len(sweep.models), figsize=(3.2 * len(sweep.models) + 2, 5.5), squeeze=False, sharey=True
    )
    names = [row.name for row in sweep.rows if not row.baseline]
    for panel, model in zip(panels[0], sweep.models, strict=True):
        for text, marker in zip(sweep.texts, "osD^v<>", strict=False):
            points = [(relative(table, model.name, name, text.name), i) for i, name in enumerate(names)]
            points = [(100 * (value - 1), i) for value, i in points if value is not None and value > 1.0001]
            if points:  # a logarithmic axis cannot be without any
                panel.set_xscale("log")
            panel.scatter([x for x, _ in points], [i for _, i in points], marker=marker, s=22, label=text.name)
        panel.set_title(model.name, fontsize=10)
        panel.set_xlabel("perplexity above unquantized, %", fontsize=8)
        panel.grid(True, which="both", alpha=0.25)
    panels[0][0].set_yticks(range(len(names)), names, fontsize=8)
    panels[0][0].invert_yaxis()
    panels[0][-1].legend(fontsize=8)
    figure.tight_layout()
    with atomic_writer(path) as file:
        figure.savefig(file, format="svg", metadata={"Date": None})
    pyplot.close(figure)
