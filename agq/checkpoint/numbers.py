"""What agq.json says, under `report.numbers`, of odd numbers that quantizing met and of steps that it took back."""

from typing import Any

# What is counted: key of the record -> words after a number.
KINDS = {
    "zero_matrices": "matrices of zeros",
    "constant_matrices": "matrices of one value",
    "dead_channels": "input channels that are always zero",
    "rank_deficient_hessians": "inputs with fewer calibration tokens than channels",
    "zero_tokens": "inputs of tokens that are zero in all channels",
    "values_beyond_fp16": "values that fp16 cannot hold, cut to its largest",
}


def numbers_of(record: Any) -> dict[str, Any]:
    """`report.numbers` of a folder's agq.json, or of what a packed file keeps of it; {} where there is nothing."""
    report = record.get("report") if isinstance(record, dict) else None
    found = report.get("numbers") if isinstance(report, dict) else None
    return found if isinstance(found, dict) else {}


def in_words(numbers: dict[str, Any]) -> list[str]:
    """One line for each thing that was counted, and for each step that was taken back."""
    lines = [f"{numbers[kind]} {words}" for kind, words in KINDS.items() if kind in numbers]
    taken = numbers.get("taken_back")
    return lines + [str(line) for line in taken] if isinstance(taken, list) else lines
