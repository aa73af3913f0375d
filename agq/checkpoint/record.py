"""agq.json: what agq knows about a quantized folder beyond the compressed-tensors standard."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agq.errors import AgqError
from agq.formats import ACTIVATIONS, EMBEDDING, HEAD, KV_CACHE, PER_ROW, Widths, any_of, groups
from agq.formats.limits import GROUP, HADAMARD, MAX_SINK_TOKENS
from agq.models.folding import fold_names
from agq.recipe import ActivationScheme
from agq.safetensors.files import load_json

NAME = "agq.json"
FORMAT = 1
# What is computed at run time beyond the plain model, by the names that agq.json's `online` lists.
ONLINE = ("act_clip", "bake_embed_norm", "hadamard", "kv4", "kv8", "sink_tokens", "static_activations")


@dataclass(frozen=True)
class AgqRecord:
    """A validated agq.json; None: not said.

    Attributes:
        activations: module name -> scheme that wins over config.json.
        clips: module name -> share of the range that its input's codes cover, where it is not 1.
        hadamards: module name -> block length of the Walsh-Hadamard transform of its input, where there is one.
        embed_bits: width of an embedding table that is not the head; None: as the head.
        sink_tokens: first positions of a sequence that have 8-bit activations in the blocks' linears with dynamic 4-bit
            ones.
        embed_norm: False where BLOOM's embedding norm has been computed into the table.
    """

    values: dict[str, Any] = field(default_factory=dict)
    activations: dict[str, ActivationScheme] = field(default_factory=dict)
    clips: dict[str, float] = field(default_factory=dict)
    hadamards: dict[str, int] = field(default_factory=dict)
    kv_bits: int | None = None
    head_bits: int | None = None
    embed_bits: int | None = None
    sink_tokens: int = 0
    embed_norm: bool = True
    recipe: dict[str, Any] | None = None

    @classmethod
    def read(cls, folder: Path, modules: set[str]) -> "AgqRecord":
        """agq.json of a folder; an empty record where there is none.

        Args:
            modules: names of the model's linears; an activation scheme for anything else is an error.
        """
        path = folder / NAME
        if not path.exists():
            return cls()
        where = f"`{path}`"
        try:
            data = path.read_bytes()
        except OSError as error:
            raise AgqError(f"cannot read {where}: {error.strerror or error}") from error
        values = load_json(data, where)
        if not isinstance(values, dict) or not isinstance(values.get("format"), int):
            raise AgqError(f"{where} is not an agq record")
        if values["format"] != FORMAT:
            raise AgqError(f"{where} has format {values['format']}; this agq reads {FORMAT}", hint="update agq")
        _refuse_unknown_steps(values.get("online", []), where)
        transforms = values.get("transforms", {})
        if not isinstance(transforms, dict):
            raise AgqError(f"{where}: `transforms` is not an object")
        table = {} if values.get("activations") is None else values["activations"]
        if not isinstance(table, dict):
            raise AgqError(f"{where}: `activations` is not an object")
        if unknown := sorted(set(table) - modules):
            raise AgqError(f"{where}: `activations` names modules that the model lacks: {fold_names(unknown)}")
        recipe = values.get("recipe")
        if recipe is not None and not isinstance(recipe, dict):
            raise AgqError(f"{where}: `recipe` is not an object")
        activations = {name: _activation(item, f"{where}: {name}") for name, item in table.items()}
        return cls(
            values=values,
            activations=activations,
            clips={name: float(item["clip"]) for name, item in table.items() if item.get("clip", 1) != 1},
            hadamards={name: item["hadamard"] for name, item in table.items() if item.get("hadamard", 0)},
            kv_bits=_choice(values, "kv_bits", KV_CACHE, where),
            head_bits=_choice(values, "head_bits", HEAD, where),
            embed_bits=_choice(values, "embed_bits", EMBEDDING, where),
            sink_tokens=_sink_tokens(values, where),
            embed_norm=transforms.get("bake_embed_norm") is not True,
            recipe=recipe,
        )


def _refuse_unknown_steps(names: Any, where: str) -> None:
    """The weights of such a folder would be read with success and computed wrongly."""
    if not isinstance(names, list) or any(not isinstance(name, str) for name in names):
        raise AgqError(f"{where}: `online` is not a list of names")
    if unknown := [name for name in names if name not in ONLINE]:
        raise AgqError(
            f"{where}: the model needs what this agq does not compute: {', '.join(f'`{name}`' for name in unknown)}",
            hint="update agq",
        )


def _choice(values: dict[str, Any], name: str, choices: Widths, where: str) -> int | None:
    value = values.get(name)
    if value is None:
        return None
    if value not in choices:
        raise AgqError(f"{where}: `{name}` is {value!r}, not one of {', '.join(map(str, choices.bits))}")
    return int(value)


def _sink_tokens(values: dict[str, Any], where: str) -> int:
    count = values.get("sink_tokens", 0)
    if type(count) is not int or not 0 <= count <= MAX_SINK_TOKENS:
        raise AgqError(f"{where}: `sink_tokens` is {count!r}, not between 0 and {MAX_SINK_TOKENS}")
    if ("sink_tokens" in values.get("online", [])) != (count > 0):
        raise AgqError(
            f"{where}: `online` and `sink_tokens` ({count}) contradict each other", hint="quantize the model again"
        )
    return count


def _activation(item: Any, where: str) -> ActivationScheme:
    names = {"bits", "group_size", "symmetric"}
    if not isinstance(item, dict) or not names <= set(item) <= names | {"clip", "hadamard", "static"}:
        raise AgqError(
            f"{where}: an activation scheme has bits, group_size and symmetric, and may have clip and hadamard"
        )
    clip, hadamard = item.get("clip", 1.0), item.get("hadamard", 0)
    if isinstance(clip, bool) or not isinstance(clip, (int, float)) or not 0 < clip <= 1:
        raise AgqError(f"{where}: `clip` is {clip!r}, not a number above 0 and at most 1")
    if type(hadamard) is not int or not 0 <= hadamard <= HADAMARD or hadamard & (hadamard - 1):
        raise AgqError(f"{where}: `hadamard` is {hadamard!r}, not a power of two or 0")
    bits, group, symmetric = item["bits"], item["group_size"], item["symmetric"]
    if type(bits) is not int or bits not in ACTIVATIONS or type(symmetric) is not bool:
        hint = f"bits is {any_of(ACTIVATIONS)}, symmetric true or false"
        raise AgqError(f"{where}: not an activation scheme: {item!r}", hint=hint)
    whole = groups.to_recipe(PER_ROW)
    if type(group) is not int or not (group == whole or 0 < group <= GROUP):
        raise AgqError(f"{where}: `group_size` is {group!r}, not {whole} (per token) or a number of columns")
    dynamic = symmetric or ACTIVATIONS[bits].asymmetric
    if not dynamic and "static" not in item:
        raise AgqError(f"{where}: asymmetric {bits}-bit activations are not supported")
    # Static quantizers are read by agq/checkpoint/static.py; this is the dynamic one of the same width.
    return ActivationScheme(bits, symmetric or not dynamic, groups.of_recipe(group))
