"""Pictures of a sweep, one panel a model: relative perplexity of every row, and what rows of chosen formats lose at
their sizes. They need matplotlib (`pip install '.[plot]'` in the source folder)."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from agq.errors import AgqError
from agq.files import atomic_writer
from agq.sweep.definition import Row, Sweep
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


def chosen_formats(row: Row) -> bool:
    """The row's formats are chosen for a target."""
    changes = row.options.changes
    return any(getattr(changes, name) is not None for name in ("target_bits", "target_size", "board"))


def write_sizes(path: Path, sweep: Sweep, records: list[dict[str, Any]]) -> None:
    """Writes an SVG: divergence from the unquantized model over the bytes of the packed file, uniform formats as a
    line, formats chosen for a target as points."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "agq"
    from matplotlib import pyplot

    table = by_name(records)
    figure, panels = pyplot.subplots(1, len(sweep.models), figsize=(4.2 * len(sweep.models), 4), squeeze=False)
    for panel, model in zip(panels[0], sweep.models, strict=True):
        for chosen, style, label in ((False, "o-", "uniform"), (True, "D", "chosen")):
            found = [
                (record["bytes"] / 1e6, record["kl"], row.name)
                for row in sweep.rows_of(model)
                if not row.baseline
                and not row.prune
                and chosen_formats(row) == chosen
                and (record := table.get((model.name, row.name), {})).get("kl", 0) > 0
            ]
            found.sort()
            panel.plot([x for x, _, _ in found], [y for _, y, _ in found], style, markersize=5, label=label)
            for x, y, name in found:
                panel.annotate(name, (x, y), fontsize=7, xytext=(4, 4), textcoords="offset points")
            if found:
                panel.set_yscale("log")
        panel.set_title(model.name, fontsize=10)
        panel.set_xlabel("packed file, MB", fontsize=8)
        panel.set_ylabel("KL divergence, nats", fontsize=8)
        panel.grid(True, which="both", alpha=0.25)
        panel.legend(fontsize=8)
    figure.tight_layout()
    with atomic_writer(path) as file:
        figure.savefig(file, format="svg", metadata={"Date": None})
    pyplot.close(figure)
