"""Static activations from recipe to engine: what quantize stores, what the reference and the packed model compute of
it.

The demo model is quantized for real; the OPT and BLOOM demo models too where they are there.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import agq
from agq.artifact.reader import open_artifact
from agq.checkpoint import open_checkpoint
from agq.errors import AgqError
from agq.native.library import load_library
from agq.recipe import CalibrationSpec, GptqOptions, Recipe, Scheme
from agq.recipe.agile import AgileOptions
from agq.reference.decoder import ReferenceModel
from agq.runtime import descriptor
from agq.runtime.engine import Engine
from agq.runtime.tokenizer import Tokenizer
from tests.agile.integer import product_folded


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """The models are small: threads that wait for each other cost more than they bring."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def recipe(text: Path, **options: object) -> Recipe:
    return Recipe(
        scheme=Scheme.of(4, 8, symmetric=False),
        method="rtn",
        gptq=GptqOptions(mse=False),
        calibration=CalibrationSpec(data=str(text), samples=4, seq_len=256),
        agile=AgileOptions(**{"mode": "trip", "windows": 4, **options}),
    )


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, demo_model: Path, demo_text: Path
) -> Callable[..., tuple[Path, Path]]:
    """`made(four_bits="agile", softmax_bits=4)`: the demo model with static activations, as a folder and packed; made
    once per variant."""
    found: dict[tuple, tuple[Path, Path]] = {}

    def build(model: Path = demo_model, **options: object) -> tuple[Path, Path]:
        key = (model, *sorted(options.items()))
        if key not in found:
            folder = tmp_path_factory.mktemp("agile") / "model"
            agq.quantize(model, folder, recipe=recipe(demo_text / "calibration.txt", **options))
            packed = folder.with_suffix(".agq.safetensors")
            agq.pack(folder, packed)
            found[key] = folder, packed
        return found[key]

    return build


def nll(logits: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Negative log likelihoods of ids[1:]."""
    shifted = logits[:-1].astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    return np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(ids) - 1), ids[1:]]


def held_out(packed: Path, text: Path, windows: int, length: int) -> list[np.ndarray]:
    tokenizer = Tokenizer(open_artifact(packed).document("tokenizer.json"))
    ids = np.array(tokenizer.encode((text / "heldout.txt").read_text()))
    return [ids[i * length : (i + 1) * length] for i in range(windows)]


def check_perplexities(folder: Path, packed: Path, text: Path, coarse: bool) -> None:
    """Reference and engine within 0.2 % in perplexity. With `coarse` grids (4-bit activations, probabilities as powers
    of two) a rounding error now and then moves a value by a whole step, which changes single predictions either way:
    there the difference may also be three of its own standard errors."""
    reference, engine = ReferenceModel.from_folder(folder), Engine(packed, threads=1, context=512)
    differences = []
    for ids in held_out(packed, text, 6, 512):
        engine.truncate()
        differences.append(nll(engine.forward(ids, logits="all"), ids) - nll(reference.logits(ids), ids))
    engine.close()
    tokens = np.concatenate(differences)
    chance = 3 * tokens.std() / np.sqrt(tokens.size) if coarse else 0
    assert abs(np.expm1(tokens.mean())) <= max(2e-3, chance)


@pytest.mark.slow
@pytest.mark.parametrize(("four_bits", "softmax_bits"), [("none", 0), ("none", 4), ("agile", 4)])
def test_reference_and_engine_agree(
    made: Callable[..., tuple[Path, Path]], demo_text: Path, four_bits: str, softmax_bits: int
) -> None:
    folder, packed = made(four_bits=four_bits, softmax_bits=softmax_bits)
    check_perplexities(folder, packed, demo_text, coarse=(four_bits, softmax_bits) != ("none", 0))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "softmax_bits"), [("opt-demo", 0), ("opt-demo", 4), ("bloom-demo", 0), ("bloom-demo", 4)]
)
def test_other_families(
    made: Callable[..., tuple[Path, Path]],
    shared_model: Callable[[str], Path],
    demo_text: Path,
    name: str,
    softmax_bits: int,
) -> None:
    folder, packed = made(shared_model(name), four_bits="none", softmax_bits=softmax_bits)
    check_perplexities(folder, packed, demo_text, coarse=softmax_bits == 4)


@pytest.mark.slow
def test_integer_attention_reaches_the_artifact(made: Callable[..., tuple[Path, Path]]) -> None:
    """Calibrated scales of q, k, v: in the folder, in the artifact, in the reference; none with softmax_bits 0."""
    folder, packed = made(four_bits="agile", softmax_bits=4)
    scales, artifact = open_checkpoint(folder).statics.attention, open_artifact(packed)
    assert artifact.info.attention == "log2"
    assert (artifact.tensor("blocks.3.v_exponent") == scales[3].v_exponent).all()
    assert ReferenceModel.from_folder(folder).blocks[3].scales is not None
    assert ReferenceModel.from_folder(folder, fake_quant=False).blocks[3].scales is None
    folder, packed = made(four_bits="none", softmax_bits=0)
    assert open_checkpoint(folder).statics.attention is None
    assert open_artifact(packed).info.attention == "float"


def test_calibration_leaves_pruned_tokens_out(demo_model: Path) -> None:
    """Survivors ascend, the first and the last token stay, the numbers are those of the schedule; no pruning is the
    plain pass."""
    from agq.quantization.agile.calibrate import Window, plain_step, pruning_step
    from agq.recipe.pruning import PruningOptions

    torch.manual_seed(0)
    model = ReferenceModel.from_folder(demo_model)
    ids = torch.randint(5, 8000, (1, 100))
    options = PruningOptions("2-5", 0.4)
    with torch.inference_mode():
        positions = model.positions(100)
        start = Window(model.embedding(ids), torch.arange(100))
        plain = pruned = start
        steps = plain_step(positions), pruning_step(positions, options, 6)
        left = []
        for index, block in enumerate(model.blocks):
            seen, plain = steps[0](index, block, plain)
            also, pruned = steps[1](index, block, pruned)
            assert set(seen) == set(also) == {"q", "o", "gate", "down", "q*", "k*", "v*"}
            if index == 0:
                assert all(torch.equal(seen[name], also[name]) for name in seen)
            alive = pruned.alive
            assert alive[0] == 0 and alive[-1] == 99 and (alive.diff() > 0).all()
            assert also["gate"].shape[1] == alive.numel() == pruned.hidden.shape[1]
            left.append(alive.numel())
    assert left == options.counts(100, 6)
    assert left[-1] < 65


@pytest.mark.slow
def test_every_linear_equals_the_reference(made: Callable[..., tuple[Path, Path]]) -> None:
    """The packed products against the dequantized weights times the fake-quantized inputs, saturated inputs among
    them."""
    torch.manual_seed(0)
    for four_bits in ("none", "agile"):
        folder, packed = made(four_bits=four_bits, softmax_bits=4)
        artifact, library = open_artifact(packed), load_library(None)
        model, _keep = descriptor.build_model(library.ffi, artifact)
        block = ReferenceModel.from_folder(folder).blocks[1]
        for name, roles in (("qkv", "qkv"), ("out", "o"), ("up", ("gate", "up")), ("down", ("down",))):
            linear = library.ffi.addressof(descriptor.linear_of(model, model.blocks, f"blocks.1.{name}"))
            parts = [block.linears[role] for role in roles]
            quantizer = parts[0].transform
            x = torch.randn(13, linear.in_features) * (quantizer.scale * 2.0**quantizer.bits / 3) * 2.0**quantizer.alpha
            wanted = torch.cat([part(quantizer(x)) for part in parts], dim=1).numpy()
            found, inputs = np.zeros_like(wanted), np.ascontiguousarray(x.numpy())
            status = library.c.agq_linear_forward(
                linear, library.ffi.from_buffer("float[]", inputs), 13, library.ffi.from_buffer("float[]", found), 1, 0
            )
            assert status == 0
            assert linear.act_static == 1
            assert np.abs(found - wanted).max() <= 2e-6 * np.abs(wanted).max()


def test_folded_weights_are_realization_a(made: Callable[..., tuple[Path, Path]]) -> None:
    """What pack stores for 8-bit activations: codes times 2^alpha, and in the bias what the operand code - 128 leaves
    out."""
    folder, packed = made(four_bits="none", softmax_bits=0)
    checkpoint, artifact = open_checkpoint(folder), open_artifact(packed)
    from agq.artifact import layout
    from agq.checkpoint import read_linear

    module = checkpoint.parts.block(0).linears["o"].module
    stored, static = read_linear(checkpoint, module), checkpoint.statics.inputs[module]
    groups = stored.scale.shape[1]
    weights = stored.codes.astype(np.int64) - np.repeat(
        stored.zero.astype(np.int64), stored.codes.shape[1] // groups, axis=1
    )
    info = artifact.linears["blocks.0.out"]
    folded = layout.unpack_i8(artifact.tensor("blocks.0.out.weight"), info.out, info.inputs)
    assert (folded == weights << static.exponent.astype(np.int64)).all()
    assert static.exponent.max() > 0
    # A whole product from the stored parts, against realization A on the original ones.
    codes = np.random.default_rng(0).integers(0, 256, (5, info.inputs))
    bias = artifact.tensor("blocks.0.out.bias").astype(np.float64)
    size = info.inputs // groups
    total, wanted = np.tile(bias, (5, 1)), np.zeros((5, info.out))
    for group in range(groups):
        part = slice(group * size, (group + 1) * size)
        scale = stored.scale[:, group].astype(np.float64) * static.scale
        total += scale * ((codes[:, part] - 128) @ folded[:, part].astype(np.int64).T)
        integers = product_folded(
            torch.from_numpy(codes[:, part]), static.zero, torch.from_numpy(weights[:, part]),
            torch.from_numpy(static.exponent[part]),
        )  # fmt: skip
        wanted += scale * integers.numpy()
    assert np.allclose(total, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())


def test_what_is_stored(made: Callable[..., tuple[Path, Path]]) -> None:
    """One quantizer for the linears of one input, widths by role, exponents up to k."""
    folder, packed = made(four_bits="agile", softmax_bits=4)
    entries = json.loads((folder / "agq.json").read_text())["activations"]
    statics = open_checkpoint(folder).statics.inputs
    bits = {name.rsplit(".", 1)[1]: entry["bits"] for name, entry in entries.items()}
    assert bits == {"q_proj": 8, "k_proj": 8, "v_proj": 8, "o_proj": 4, "gate_proj": 4, "up_proj": 4, "down_proj": 4}
    assert all(item.exponent.max() <= 3 for item in statics.values())
    assert len({id(statics[name]) for name in statics}) == len(entries)
    attention = "model.layers.2.self_attn."
    assert statics[attention + "q_proj"].same(statics[attention + "v_proj"])
    assert not statics[attention + "q_proj"].same(statics[attention + "o_proj"])
    info = open_artifact(packed).linears
    assert (info["blocks.0.qkv"].dtype, info["blocks.0.out"].dtype) == ("i8", "u4")
    assert info["blocks.0.qkv"].act_static and info["blocks.0.down"].act_bits == 4


def test_more_exponents_never_have_a_larger_error(demo_model: Path, demo_text: Path, tmp_path: Path) -> None:
    """The finer steps of TRIP on real activations: less squared error than one step for the whole tensor."""
    from agq.numerics.trip import calibrate

    torch.manual_seed(0)
    model = ReferenceModel.from_folder(demo_model)
    ids = torch.randint(5, 8000, (1, 128))
    hidden = model.embedding(ids)
    inputs, _ = model.blocks[0].inputs(hidden, model.positions(128))
    for x in inputs.values():
        errors = [float((calibrate(x, 8, k)(x) - x).square().sum()) for k in (0, 1, 3)]
        assert errors[2] <= errors[1] <= errors[0]


def test_damaged_static_quantizers(made: Callable[..., tuple[Path, Path]], tmp_path: Path) -> None:
    """Each is refused when the folder is opened, in words."""
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(made(four_bits="agile", softmax_bits=4)[0], folder)
    good = json.loads((folder / "agq.json").read_text())
    module = "model.layers.0.self_attn.o_proj"

    def refused(change: dict[str, object], words: str) -> None:
        values = json.loads(json.dumps(good))
        values["activations"][module] |= change
        (folder / "agq.json").write_text(json.dumps(values))
        with pytest.raises(AgqError, match=words):
            open_checkpoint(folder)

    refused({"static": {"scale": 0.0, "zero": 3}}, "static scale of 0.0")
    refused({"static": {"scale": 0.1, "zero": 3}}, "static scale of 0.1")  # not a float32 value
    refused({"static": {"scale": 0.5, "zero": 16}}, "no scale and zero point of 4 bits")
    refused({"static": {"scale": 0.5}}, "no scale and zero point")
    refused({"static": 3}, "not a static quantizer")
    refused({"static": {"channels": True}}, "act_scale` is missing")
    (folder / "agq.json").write_text(json.dumps(good))
    (folder / "agq.safetensors").unlink()
    with pytest.raises(AgqError, match=r"lacks `agq\.safetensors`"):
        open_checkpoint(folder)


@pytest.mark.slow
def test_what_pack_refuses(tmp_path: Path, demo_model: Path, demo_text: Path) -> None:
    """The simulation of the released code, and exponents beyond int8, are computed by the reference only."""
    for options, words in (({"mode": "code-compat"}, "code-compat"), ({"k": 5}, "exponents up to 3")):
        folder = tmp_path / words.split()[0]
        agq.quantize(demo_model, folder, recipe=recipe(demo_text / "calibration.txt", **options))
        ids = np.arange(100, 140)
        assert np.isfinite(ReferenceModel.from_folder(folder).logits(ids)).all()
        with pytest.raises(AgqError, match=words):
            agq.pack(folder, tmp_path / "x.agq.safetensors")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scheme": Scheme.parse("W4A4")}, "W4A8"),
        ({"scheme": Scheme.parse("W8A8")}, "W4A8"),
        ({"act_clip": 0.9}, "no act_clip"),
        ({"kv_bits": 4}, "8-bit keys and values"),
        ({"kv_bits": 32}, "8-bit keys and values"),
    ],
)
def test_recipes_that_contradict_themselves(change: dict[str, object], words: str) -> None:
    with pytest.raises(AgqError, match=words):
        dataclasses.replace(Recipe(agile=AgileOptions(mode="trip")), **change)


@pytest.mark.parametrize(
    "options",
    [{"mode": "ptf"}, {"k": 9}, {"k": -1}, {"observer": "omse"}, {"percentile": 0.2}, {"softmax_bits": 8},
     {"four_bits": "some"}, {"windows": 0}],
)  # fmt: skip
def test_options_out_of_range(options: dict[str, object]) -> None:
    with pytest.raises(AgqError):
        AgileOptions(**options)
