"""Who may import whom. The rooms of agq/ stand on floors; an import leads down, never up or around in a circle.

The test reads every import statement, those inside functions and those for type checkers too.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.support import REPOSITORY

# Floor by floor, from the ground up. A room imports only from rooms on floors below its own (and from itself).
FLOORS = (
    ("errors", "version"),
    ("files", "formats", "kinds", "native", "structured"),
    ("models", "numerics", "reporting"),
    ("recipe", "safetensors", "system"),
    ("checkpoint", "hub", "tokenizer"),
    ("gguf",),
    ("artifact", "reference"),
    ("runtime", "text"),
    ("calibration", "evaluation", "inspect", "planning"),
    ("comparison", "quantization"),
    ("report", "sweep"),
    ("cli",),
    ("agq",),  # the package itself: agq/__init__.py and agq/__main__.py, which nobody imports
)
# Rooms that a Pi runs: neither they nor what they import may need torch.
LIGHT = (
    "formats",
    "native",
    "recipe",
    "safetensors",
    "system",
    "checkpoint",
    "tokenizer",
    "gguf",
    "artifact",
    "runtime",
    "inspect",
    "planning",
)
# The only functions that take keywords without naming them. Names of the first two and of `agq.cli` come from the
# declarations of options (agq.recipe.declaration.takes); the others hand them to a dataclass, which knows its fields.
COLLECTING = {
    "agq.calibration.calibrate": ["calibrate"],
    "agq.quantization.quantize": ["quantize"],
    "agq.cli.options": ["with_options", "command"],
    "agq.cli.quantize": ["_option"],
    "agq.recipe.changes": ["__init__"],
    "agq.recipe.declaration": ["but"],
}
# Two modules of `system` tell torch its device and its threads; only commands that compute with torch import them.
FOR_TORCH = ("agq.system.devices", "agq.system.torch_threads")
HEAVY = ("torch", "transformers", "datasets", "compressed_tensors", "numerics", "reference", "quantization")


def modules() -> dict[str, Path]:
    """Dotted name -> file of every module of agq."""
    found = {}
    for path in sorted((REPOSITORY / "agq").rglob("*.py")):
        parts = path.relative_to(REPOSITORY).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, known: dict[str, Path]) -> set[str]:
    """What a file imports: modules of agq by their full names, others by their first word."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in known else str(node.module) for name in names]
        else:
            continue
        found |= {name if name.split(".")[0] == "agq" else name.split(".")[0] for name in names}
    return found


def room(module: str) -> str:
    """The second word of a module's name: "recipe" of agq.recipe.files."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] != "__main__" else "agq"


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    """Module -> what it imports."""
    known = modules()
    return {name: imports(path, known) - {name} for name, path in known.items()}


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other, directly or not."""
    reach: dict[str, set[str]] = {}
    for start in graph:
        seen: set[str] = set()
        todo = [start]
        while todo:
            for name in graph.get(todo.pop(), ()):
                if name in graph and name not in seen:
                    seen.add(name)
                    todo.append(name)
        reach[start] = seen
    tied = {name: sorted(other for other in reach[name] if name in reach[other]) for name in graph}
    return sorted({tuple(group) for group in tied.values() if group})  # type: ignore[arg-type]


def arrows_up(graph: dict[str, set[str]]) -> list[str]:
    """Imports that do not lead to a lower floor."""
    floor = {name: level for level, names in enumerate(FLOORS) for name in names}
    found = []
    for module, targets in graph.items():
        for target in targets:
            if target.split(".")[0] != "agq" or room(target) == room(module):
                continue
            if floor[room(target)] >= floor[room(module)]:
                found.append(f"{module} -> {target}")
    return found


def test_every_room_has_a_floor(graph: dict[str, set[str]]) -> None:
    listed = [name for floor in FLOORS for name in floor]
    assert sorted(listed) == sorted({room(module) for module in graph})


def test_no_circles(graph: dict[str, set[str]]) -> None:
    assert circles(graph) == []


def test_imports_lead_down(graph: dict[str, set[str]]) -> None:
    assert arrows_up(graph) == []


def test_what_a_pi_runs_needs_no_torch(graph: dict[str, set[str]]) -> None:
    heavy = [
        f"{module} -> {target}"
        for module, targets in graph.items()
        if room(module) in LIGHT and module not in FOR_TORCH
        for target in targets
        if (room(target) if target.split(".")[0] == "agq" else target) in HEAVY
    ]
    assert heavy == []


def collecting(path: Path) -> list[str]:
    """Functions of a file that have a parameter `**name`."""
    tree = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return [node.name for node in tree if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.args.kwarg]


def test_options_travel_by_name() -> None:
    """A keyword that is passed on without a name can be lost on its way, and no reader can follow it."""
    assert {name: found for name, path in modules().items() if (found := collecting(path))} == COLLECTING


def test_it_sees_what_it_should(tmp_path: Path) -> None:
    """The reader and the two checks on a made-up package: a circle, an arrow up, an import inside a function."""
    source = tmp_path / "file.py"
    source.write_text(
        "from __future__ import annotations\nimport torch.nn\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n"
        "    from agq.cli.run import run\ndef f():\n    from agq import files\n    import agq.recipe.files\n"
    )
    known = {"agq": source, "agq.files": source, "agq.recipe.files": source, "agq.cli.run": source}
    assert imports(source, known) == {
        "__future__",
        "typing",
        "torch",
        "agq.cli.run",
        "agq.files",
        "agq.recipe.files",
    }
    source.write_text("def plan(model, **options):\n    return lambda **more: more\ndef other(*values): ...\n")
    assert collecting(source) == ["plan"]
    tied = {"agq.files": {"agq.errors"}, "agq.errors": {"agq.version"}, "agq.version": {"agq.files"}}
    assert circles(tied) == [("agq.errors", "agq.files", "agq.version")]
    assert circles({"agq.files": {"agq.errors"}, "agq.errors": set()}) == []
    assert arrows_up({"agq.files": {"agq.errors", "agq.cli.run"}, "agq.cli.run": {"agq.files"}}) == [
        "agq.files -> agq.cli.run"
    ]
