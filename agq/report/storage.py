"""The sections of bits: of the activations on average, of every tensor."""

from __future__ import annotations

from agq.formats.effective import number
from agq.inspect.describe import merged
from agq.report.document import Bars, Missing, Section, Table
from agq.report.facts import Subject
from agq.reporting.output import human_size


def activation_bits(subject: Subject) -> Section:
    """Effective bits of activations, and what was raised."""
    section = Section(
        "Bits of the activations",
        "A mean over the multiply-accumulates of the blocks. Inputs that would lose too much keep a finer format than "
        "the scheme says.",
    )
    if subject.bits is None:
        section.items.append(Missing("bits of the activations: all inputs are floats"))
        return section
    bits = subject.bits
    section.items.append(
        Table(
            f"{number(bits.mean)} bits on average",
            ("format", "inputs", "share of multiply-accumulates", "finer than the scheme"),
            [
                (
                    kind.words,
                    f"{kind.inputs} of {bits.inputs}",
                    f"{100 * kind.share:.1f} %",
                    "yes" if kind.raised else "no",
                )
                for kind in bits.kinds
            ],
            right=(1, 2),
        )
    )
    sinks = subject.values.get("sink_tokens")
    if sinks:
        section.items.append(
            Table("", ("besides",), [(f"the first {sinks} tokens of a sequence have 8 bits where others have 4",)])
        )
    return section


def storage(subject: Subject) -> Section:
    """Bits and bytes of every tensor."""
    section = Section("Bits and bytes", "What the weights take, scales and zero points included.")
    linears = subject.values["linears"]
    inner = {item["name"] for item in linears if _inside(item["name"])}
    of_linears = sum(item["bytes"] for item in linears if item["name"] in inner)
    total = sum(tensor.nbytes for tensor in subject.tensors)
    rows = [("linears of the blocks", of_linears), ("all else (embedding, head, norms)", total - of_linears)]
    section.items.append(Bars("Where the bytes are", [(name, float(size), human_size(size)) for name, size in rows]))
    section.items.append(
        Table(
            "Linears",
            ("linear", "shape", "weights", "inputs", "bits a weight", "bytes of each"),
            [
                (
                    item["name"],
                    f"{item['out']} x {item['in']}",
                    item["weights"],
                    item["activations"],
                    f"{8 * item['bytes'] / (item['out'] * item['in']):.2f}" if item["bytes"] else "shared",
                    f"{item['bytes']:,}",
                )
                for item in merged(linears)
            ],
            right=(4, 5),
        )
    )
    section.items.append(
        Table(
            f"Every tensor ({len(subject.tensors)})",
            ("tensor", "type", "shape", "bytes"),
            [
                (item.name, item.dtype, " x ".join(map(str, item.shape)) or "1", f"{item.nbytes:,}")
                for item in subject.tensors
            ],
            right=(3,),
            folded=True,
        )
    )
    return section


def _inside(name: str) -> bool:
    """Whether a linear stands in a block: a number is part of its name."""
    return any(part.isdigit() for part in name.split("."))
