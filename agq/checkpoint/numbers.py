"""What agq.json says, under `report.numbers`, of odd numbers that quantizing met and of steps that it took back."""

from typing import Any

# What is counted: key of the record -> words after the number 1, and after others.
KINDS = {
    "zero_matrices": ("matrix of zeros", "matrices of zeros"),
    "constant_matrices": ("matrix of one value", "matrices of one value"),
    "dead_channels": ("input channel that is always zero", "input channels that are always zero"),
    "rank_deficient_hessians": (
        "input with fewer calibration tokens than channels",
        "inputs with fewer calibration tokens than channels",
    ),
    "zero_tokens": (
        "input of a token that is zero in all channels",
        "inputs of tokens that are zero in all channels",
    ),
    "values_beyond_fp16": (
        "value that fp16 cannot hold, cut to its largest",
        "values that fp16 cannot hold, cut to its largest",
    ),
}


def numbers_of(record: Any) -> dict[str, Any]:
    """`report.numbers` of a folder's agq.json, or of what a packed file keeps of it; {} where there is nothing."""
    report = record.get("report") if isinstance(record, dict) else None
    found = report.get("numbers") if isinstance(report, dict) else None
    return found if isinstance(found, dict) else {}


def in_words(numbers: dict[str, Any]) -> list[str]:
    """One line for each thing that was counted, and for each step that was taken back."""
    lines = [f"{numbers[kind]} {words[numbers[kind] != 1]}" for kind, words in KINDS.items() if kind in numbers]
    taken = numbers.get("taken_back")
    return lines + [str(line) for line in taken] if isinstance(taken, list) else lines
