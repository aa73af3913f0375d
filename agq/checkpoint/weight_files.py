"""Which files of a model folder hold its weights."""

from pathlib import Path, PurePosixPath

from agq.errors import AgqError
from agq.models.folding import fold_names
from agq.safetensors.files import load_json

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_CONVERT = (
    "convert it once with transformers: `AutoModelForCausalLM.from_pretrained(FOLDER, dtype='auto')"
    ".save_pretrained(NEW_FOLDER)`, and copy the tokenizer files"
)
_MAX_JSON = 256 << 20


def read_bytes(path: Path) -> bytes:
    """A file of JSON as it stands. Raises AgqError where it cannot be read or is absurdly large."""
    try:
        if path.stat().st_size > _MAX_JSON:
            raise AgqError(f"`{path}` is too large to be what its name says")
        return path.read_bytes()
    except OSError as error:
        raise AgqError(f"cannot read `{path}`: {error.strerror or error}") from error


def shard_paths(folder: Path) -> tuple[list[Path], dict[str, str] | None]:
    """The safetensors files of a folder, and the index's tensor -> file name table where there is one.

    Raises AgqError: no weights that agq reads, an index that is damaged or points outside the folder, missing shards.
    """
    if (folder / SINGLE).exists():
        return [folder / SINGLE], None
    if (folder / INDEX).exists():
        where = f"`{folder / INDEX}`"
        index = load_json(read_bytes(folder / INDEX), where)
        table = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(table, dict) or not table or not all(isinstance(value, str) for value in table.values()):
            raise AgqError(f"{where} has no `weight_map` of tensor names to file names")
        for name in sorted(set(table.values())):
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or not name:
                raise AgqError(f"{where} points outside its folder: `{name}`", hint="do not use this download")
        shards = [folder / name for name in sorted(set(table.values()))]
        missing = [path.name for path in shards if not path.exists()]
        if missing:
            raise AgqError(f"`{folder}` lacks {fold_names(missing)}", hint="the download is incomplete: fetch it again")
        return shards, table
    if any(folder.glob("pytorch_model*.bin")) or any(folder.glob("*.pth")):
        raise AgqError(f"`{folder}` holds its weights in PyTorch's pickle format: not supported", hint=_CONVERT)
    others = sorted(path.name for path in folder.glob("*.safetensors"))
    there = f"rename or index what is there: {fold_names(others)}" if others else None
    raise AgqError(
        f"`{folder}` holds neither `{SINGLE}` nor `{INDEX}`", hint=there or "is this a Hugging Face model folder?"
    )
