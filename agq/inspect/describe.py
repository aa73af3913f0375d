"""What a packed artifact or a model folder is, as plain data: for `agq info`."""

from typing import Any

from agq.artifact import effective as artifact_bits
from agq.artifact.reader import Artifact
from agq.checkpoint import effective as folder_bits
from agq.checkpoint.base import Checkpoint
from agq.checkpoint.folder import FolderCheckpoint
from agq.checkpoint.numbers import in_words, numbers_of
from agq.errors import AgqError
from agq.formats import activation_format, cache_format, integer_format, words
from agq.formats.cache import LOG2_CACHE
from agq.formats.effective import ActivationBits
from agq.native.library import load_library
from agq.recipe.pruning import PruningOptions
from agq.runtime import descriptor
from agq.runtime.linear_plans import linear_plans


def _architecture(spec: Any) -> dict[str, Any]:
    names = (
        "family",
        "layers",
        "hidden",
        "heads",
        "kv_heads",
        "head_dim",
        "ffn",
        "vocab",
        "context",
        "norm",
        "position",
        "activation",
    )
    values = {name: getattr(spec, name) for name in names} | {"tied": spec.tied, "head_matrix": spec.head_matrix}
    for name in ("rope", "rope_local"):
        rope = getattr(spec, name)
        values[name] = None if rope is None else {"kind": rope.kind, "theta": rope.theta}
        if rope is not None and rope.kind != "default":
            values[name]["factor"] = rope.factor
    values["window"] = {"tokens": spec.window, "layers": list(spec.window_layers)} if spec.window else None
    return values


def kv_bytes_per_token(spec: Any, bits: int, attention: str = "float") -> int:
    """Bytes of the KV cache per position: keys and values of all layers."""
    row = LOG2_CACHE if attention == "log2" else cache_format(bits)
    return int(spec.layers * spec.kv_heads * row.head_bytes(spec.head_dim))


def describe_artifact(artifact: Artifact) -> dict[str, Any]:
    """Architecture, sizes, recipe, and for each linear how it is stored and which kernel of this machine computes it.

    Kernel names are None where no kernel library can be loaded (`kernel_problem` says why).
    """
    blocks = [info for name, info in artifact.linears.items() if name.startswith("blocks.")]
    stored = sum(
        item.nbytes for info in blocks for name, item in info.tensors("").items() if not name.endswith(".bias")
    )
    weights = sum(info.out * info.inputs for info in artifact.linears.values())
    if not artifact.info.embed_in_head:
        weights += artifact.spec.vocab * artifact.spec.embed_dim
    values: dict[str, Any] = {
        "path": str(artifact.path),
        "form": "packed",
        **_architecture(artifact.spec),
        "bytes": artifact.size,
        "weights": weights,
        "bits_per_weight": 8 * stored / sum(info.out * info.inputs for info in blocks),
        "bits_per_weight_overall": 8 * artifact.size / weights,
        **_activations(artifact_bits.effective_bits(artifact)),
        "kv_bits": artifact.info.kv_bits,
        "head_bits": artifact.info.head_bits,
        "kv_bytes_per_token": kv_bytes_per_token(artifact.spec, artifact.info.kv_bits, artifact.info.attention),
        "attention": artifact.info.attention,
        "sink_tokens": artifact.info.sink_tokens,
        "embed_bits": artifact.info.embed_bits,
        "embedding": "in the head" if artifact.info.embed_in_head else artifact.info.tables["embed"],
        "chat_template": artifact.has("chat_template"),
        "layout": artifact.metadata["agq.layout"],
        "created_by": artifact.metadata.get("agq.created_by"),
        "source": artifact.source,
        "recipe": artifact.recipe,
        "pruning": _pruning(artifact.recipe),
        "numbers": in_words(numbers_of(artifact.recipe)),
    }
    plans: dict[str, Any] = {}
    try:
        library = load_library()
        model, _keep = descriptor.build_model(library.ffi, artifact)
        plans = {plan.name: plan for plan in linear_plans(library, artifact, model)}
        values["isa"] = library.isa
    except AgqError as error:
        values["isa"], values["kernel_problem"] = None, error.message
    values["linears"] = [_linear(name, info, plans.get(name)) for name, info in artifact.linears.items()]
    return values


def _linear(name: str, info: Any, plan: Any) -> dict[str, Any]:
    weights, activations = info.words()
    size = sum(item.nbytes for item in info.tensors("").values())
    return {
        "name": name,
        "out": info.out,
        "in": info.inputs,
        "weights": weights,
        "activations": activations,
        "bytes": size,
        "accumulator": plan and plan.accumulator,
        "kernel_decode": plan and plan.decode_kernel,
        "kernel_prefill": plan and plan.prefill_kernel,
    }


def describe_folder(checkpoint: FolderCheckpoint) -> dict[str, Any]:
    """The same for a model folder, plain or quantized; it has no kernels."""
    from agq.checkpoint.compressed_tensors import activation_scheme

    linears: list[dict[str, Any]] = []
    quantized = checkpoint.quantization
    for linear in checkpoint.parts.all_linears():
        activations = activation_scheme(checkpoint, linear.module)
        size = checkpoint.linear_bytes(linear)
        linears.append(
            {
                "name": linear.module,
                "out": linear.out_features,
                "in": linear.in_features,
                "weights": _weights_of(checkpoint, linear.module),
                "activations": _input_of(checkpoint, linear.module, activations),
                "bytes": size,
            }
        )
    blocks = {linear.module for linear in checkpoint.parts.block_linears()}
    inner = [item for item in linears if item["name"] in blocks]
    return {
        "path": str(checkpoint.path),
        "form": "quantized" if quantized and (quantized.modules() or quantized.decoded) else "plain",
        **_architecture(checkpoint.spec),
        "head_matrix": checkpoint.head_matrix is not None,
        "bytes": checkpoint.weight_bytes(),
        "bits_per_weight": 8 * sum(item["bytes"] for item in inner) / sum(item["out"] * item["in"] for item in inner),
        **_activations(folder_bits.effective_bits(checkpoint)),
        "kv_bits": checkpoint.record.kv_bits,
        "head_bits": checkpoint.record.head_bits,
        "sink_tokens": checkpoint.record.sink_tokens,
        "recipe": checkpoint.record.recipe,
        "pruning": _pruning(checkpoint.record.values),
        "numbers": in_words(numbers_of(checkpoint.record.values)),
        "linears": linears,
    }


def _activations(found: ActivationBits | None) -> dict[str, Any]:
    """Effective bits of the inputs, and the formats that they come from."""
    if found is None:
        return {"activation_bits": None, "activation_formats": None}
    return {"activation_bits": found.mean, "activation_formats": {"words": found.describe(), **found.to_dict()}}


def _pruning(record: Any) -> dict[str, Any] | None:
    options = PruningOptions.of_record(record)
    return options.to_dict() if options is not None else None


def _weights_of(checkpoint: FolderCheckpoint, module: str) -> str:
    quantized = checkpoint.quantization
    scheme = quantized.scheme(module) if quantized is not None else None
    special = quantized.words(module) if quantized is not None else ""
    if scheme is None:
        found = checkpoint.dtype(f"{module}.weight").lower()
    else:
        whole = "tensor" if scheme.strategy == "tensor" else "row"
        found = words.weights(integer_format(scheme.bits), scheme.group_size, scheme.symmetric, whole)
    return f"{found} ({special})" if special else found


def _input_of(checkpoint: Checkpoint, module: str, scheme: Any) -> str:
    static = checkpoint.statics.inputs.get(module)
    online = words.online(checkpoint.record.hadamards.get(module, 0), checkpoint.record.clips.get(module, 1.0))
    if static is not None:
        per_channel = static.channel_scale is not None
        return words.static_activations(activation_format(static.bits), per_channel) + online
    return words.activations(scheme.format, scheme.group_size, scheme.symmetric) + online


def merged(linears: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Linears of neighbouring blocks that are alike as one entry, its name with a range: `blocks.0-5.qkv`."""
    found: dict[tuple, dict[str, Any]] = {}
    for item in linears:
        parts = item["name"].split(".")
        index = next((place for place, part in enumerate(parts) if part.isdigit()), None)
        rest = tuple((key, value) for key, value in item.items() if key != "name")
        label = tuple(parts) if index is None else (*parts[:index], "#", *parts[index + 1 :])
        number = 0 if index is None else int(parts[index])
        # A gap or another scheme in between starts a new range.
        run = next((key for key in reversed(found) if key[0] == label), None)
        if index is not None and run is not None and run[1] == rest and found[run]["last"] == number - 1:
            found[run]["last"] = number
        else:
            found[(label, rest, number)] = {"item": item, "first": number, "last": number, "label": label}
    out = []
    for entry in found.values():
        span = str(entry["first"]) if entry["first"] == entry["last"] else f"{entry['first']}-{entry['last']}"
        out.append(entry["item"] | {"name": ".".join(span if part == "#" else part for part in entry["label"])})
    return out
