"""`agq env`: versions, processor and kernels, to be pasted into a bug report. Holds no names of users, machines or
folders.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer

PACKAGES = (
    "numpy",
    "cffi",
    "tokenizers",
    "safetensors",
    "typer",
    "rich",
    "jinja2",
    "pyyaml",
    "torch",
    "transformers",
    "datasets",
    "compressed-tensors",
)


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("env")(env)


def env(json_output: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False) -> None:
    """Show versions, processor and kernels, for bug reports."""
    from agq.reporting.output import print_json, print_pairs

    values = environment()
    if json_output:
        print_json(values)
        return
    threads = values["threads"]
    print_pairs(
        {
            "agq": values["agq"],
            "python": values["python"],
            "system": values["system"],
            "processor": values["processor"],
            "features": " ".join(values["cpu_features"]) or None,
            "kernels": values["isa"] or f"none: {values['kernel_problem']}",
            "threads": f"{threads['default']} by default, {threads['most']} at most "
            f"({threads['affinity']} processors allowed, quota "
            f"{threads['quota'] if threads['quota'] is not None else 'none'})",
            "memory": f"{values['memory_bytes'] / 1e9:.1f} GB" if values["memory_bytes"] else None,
            "settings": " ".join(values["settings"]) or None,
        }
    )
    for item in values["libraries"]:
        state = f"score {item['score']}" if item["score"] else item["problem"] or "not for this processor"
        print(
            f"library {item['isa']:<11} {state}{' (chosen)' if item['isa'] == values['isa'] else ''}, {item['place']}"
        )
    for name, version in values["packages"].items():
        print(f"package {name:<19} {version or 'not installed'}")


def environment() -> dict[str, Any]:
    """What `env --json` prints."""
    from agq.errors import AgqError
    from agq.native import library
    from agq.system import threads
    from agq.version import __version__

    values: dict[str, Any] = {
        "agq": __version__,
        "python": f"{sys.implementation.name} {sys.version.split()[0]}",
        "system": _system(),
        "processor": _processor(),
        "cpu_features": [],
        "isa": None,
        "kernel_problem": None,
        "libraries": [
            {
                "isa": item.isa,
                "score": item.score,
                "problem": item.problem and item.problem.replace(str(item.path.parent), "..."),
                "place": "in the package" if item.path.parent.name == "lib" else "in the source tree",
            }
            for item in library.libraries()
        ],
        "threads": {
            "default": threads.default_threads(),
            "most": threads.most_threads(),
            "affinity": len(threads.allowed_cpus()),
            "quota": threads.cpu_quota(),
        },
        "memory_bytes": _memory(),
        "packages": _packages(),
        "settings": sorted(name for name in os.environ if name.startswith("AGQ_")),
    }
    try:
        loaded = library.load_library()
        values["isa"], values["cpu_features"] = loaded.isa, loaded.cpu_features
    except AgqError as error:
        values["kernel_problem"] = error.message
    return values


def _system() -> str:
    name = os.uname()
    distribution = ""
    try:
        with open("/etc/os-release", encoding="utf-8") as file:
            distribution = next(
                (line.split("=", 1)[1].strip().strip('"') for line in file if line.startswith("PRETTY_NAME=")), ""
            )
    except OSError:
        pass
    return f"{name.sysname} {name.release} {name.machine}" + (f", {distribution}" if distribution else "")


def _processor() -> str | None:
    """Model of the processor (x86), or of the board (Arm)."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            fields = {
                name.strip(): value.strip() for name, colon, value in (line.partition(":") for line in file) if colon
            }
    except OSError:
        return None
    return fields.get("model name") or fields.get("Model") or fields.get("Hardware") or fields.get("CPU part")


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def _packages() -> dict[str, str | None]:
    from importlib import metadata

    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found
