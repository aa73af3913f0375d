"""`agq cache`."""

from __future__ import annotations

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("cache")(cache)


def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Remove the packed files.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """List what `run`, `bench` and others packed on the way, or remove it.

    A model folder that is given to `agq run` is packed into the cache once. Models of the hub lie in the hub's own
    cache, not here.
    """
    from agq.reporting.output import human_size, print_json, print_pairs
    from agq.runtime.cache import packed_files, packed_folder

    found = [(path, path.stat().st_size) for path in packed_files()]
    folder, total = str(packed_folder()), sum(size for _, size in found)
    if clear:
        for path, _ in found:
            path.unlink(missing_ok=True)
    if json_output:
        files = [{"path": str(path), "bytes": size} for path, size in found]
        print_json({"folder": folder, "bytes": total, "cleared": clear, "files": files})
        return
    for path, size in found:
        print(f"{human_size(size):>9}  {path.name}")
    verb = "removed" if clear else "in all"
    print_pairs({"folder": folder, verb: f"{human_size(total)}, {len(found)} file{'s' if len(found) != 1 else ''}"})
