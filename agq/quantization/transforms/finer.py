"""4-bit inputs that lose too much keep a finer format: groups of 32, or 8 bits. Decided on a sample of calibration
text.

Two measures, neither of which depends on the size of the model:

- attention scores. An error of the input of q and k moves the scores that softmax turns into weights; noise of s nats
in them costs
  about s^2 / 2 nats of divergence per head. Above SCORE_NOISE the input of q, k, v has 8 bits. Models whose heads
  attend by position (OPT's learned positions) have scores of tens of nats, which 16 levels of the input cannot carry.
- every other input: the error of the outputs of what reads it, relative to their variance. Above OUTPUT_ERROR groups of
32.

On an integer kernel an 8-bit input costs no more than a 4-bit one (README, speed); groups of 32 cost a little.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from agq.formats import PerGroup
from agq.formats.activations import WIDE
from agq.models import ModelSpec
from agq.models.parts import BlockParts
from agq.numerics.quantizers import fake_quantize
from agq.quantization.transforms.parameters import TransformedParameters
from agq.quantization.transforms.plan import PLACES
from agq.recipe import ActivationScheme, Override, Recipe

# Root mean square error of the attention scores of a block, in nats.
SCORE_NOISE = 0.2
# Mean square error of a layer's outputs over their variance.
OUTPUT_ERROR = 0.01
SMALL_GROUP = PerGroup(32)
# Formats as a plan keeps them.
EIGHT_BITS, SMALL_GROUPS = "8 bits", f"groups of {SMALL_GROUP.size}"


class Verdict(NamedTuple):
    """format: EIGHT_BITS or SMALL_GROUPS; reason: a few words with the figure that decided."""

    format: str
    reason: str


def judge(
    parameters: TransformedParameters,
    block: BlockParts,
    place: str,
    x: Tensor,
    activations: ActivationScheme,
    clip: float,
) -> Verdict | None:
    """What the 4-bit input at a place of a block should have instead; None: nothing.

    parameters: of the transformed model; x: a sample of that input in it, float32 [tokens, channels]; clip: see
        fake_quantize.
    """
    group = activations.group_size
    noise = fake_quantize(x, activations.bits, activations.symmetric, group.columns(x.shape[1]), clip) - x
    if place == "attention" and (moved := score_noise(parameters, block, x, noise)) > SCORE_NOISE:
        return Verdict(EIGHT_BITS, f"4 bits would move attention scores by {moved:.2f} nats")
    # Somebody asked for whole tokens, or for groups that are small already.
    if not isinstance(group, PerGroup) or group.size <= SMALL_GROUP.size or SMALL_GROUP.problem(x.shape[1]):
        return None
    error = energy = 0.0
    for role in block.groups[PLACES.index(place)]:
        weight = parameters.tensor(f"{block.linears[role].module}.weight")
        outputs = x @ weight.t()
        error += float((noise @ weight.t()).square().sum(dtype=torch.float64))
        energy += float((outputs - outputs.mean(dim=0)).square().sum(dtype=torch.float64))
    if energy and error / energy > OUTPUT_ERROR:
        return Verdict(SMALL_GROUPS, f"an output error of {error / energy:.1%} at groups of {group.size}")
    return None


def score_noise(parameters: TransformedParameters, block: BlockParts, x: Tensor, noise: Tensor) -> float:
    """Root mean square over heads and pairs of tokens of what `noise` in the input x of q and k does to the scores, in
    nats.

    x, noise: float32 [tokens, hidden]. Pairs are drawn at random; rotary positions, which turn queries and keys, are
    left out. What is the same for all keys does not count, unless rotary positions make it differ.
    """
    spec = parameters.source
    query, key = _heads(parameters, block, x, spec, bias=True)
    query_noise, key_noise = _heads(parameters, block, noise, spec, bias=False)
    if spec.qk_norm != "none":
        query, query_noise = _normed(parameters, block, "q_norm", query, query_noise)
        key, key_noise = _normed(parameters, block, "k_norm", key, key_noise)
    repeats = spec.heads // spec.kv_heads
    key, key_noise = (t.repeat_interleave(repeats, dim=1) for t in (key, key_noise))
    order = torch.randperm(x.shape[0], generator=torch.Generator().manual_seed(0)).to(x.device)
    if spec.position != "rope":
        key = key - key.mean(dim=0)
    moved = (query_noise * key[order]).sum(dim=-1) + (query * key_noise[order]).sum(dim=-1)
    return float(moved.square().mean(dtype=torch.float64).sqrt()) * spec.attention_scale


def _normed(
    parameters: TransformedParameters, block: BlockParts, role: str, y: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor]:
    """Queries or keys y, float32 [tokens, heads, head_dim], under their norm, and what becomes of a small noise in
    them: it is divided by the same size, which it hardly changes."""
    whole = parameters.source.qk_norm == "whole"
    size = y.flatten(1).square().mean(dim=1)[:, None, None] if whole else y.square().mean(dim=-1, keepdim=True)
    gain = parameters.norm(block.norms[role]).weight
    factor = torch.rsqrt(size + parameters.source.norm_eps)
    if gain is not None:
        factor = factor * gain.reshape(*(y.shape[1:] if whole else y.shape[2:]))
    return y * factor, noise * factor


def _heads(
    parameters: TransformedParameters, block: BlockParts, x: Tensor, spec: ModelSpec, bias: bool
) -> tuple[Tensor, Tensor]:
    """Queries and keys without positions and norms, float32 [tokens, heads or kv_heads, head_dim] each."""

    def product(role: str) -> Tensor:
        module = block.linears[role].module
        y = x @ parameters.tensor(f"{module}.weight").t()
        added = parameters.optional(f"{module}.bias") if bias else None
        return y if added is None else y + added

    if "qkv" in block.linears:
        fused = product("qkv")
        query, key = (fused[:, rows] for rows in parameters.qkv_rows[:2])
    else:
        query, key = product("q"), product("k")
    shape = (x.shape[0], -1, spec.head_dim)
    return query.reshape(shape), key.reshape(shape)


def finer_recipe(recipe: Recipe, formats: dict[str, str], blocks: list[BlockParts]) -> Recipe:
    """The recipe with an override for each linear whose input has a finer format. formats: "<block>.<place>" ->
    EIGHT_BITS or SMALL_GROUPS."""
    found = []
    for block in blocks:
        for place, roles in zip(PLACES, block.groups, strict=True):
            format = formats.get(f"{block.index}.{place}")
            for role in roles if format else ():
                module = block.linears[role].module
                scheme = recipe.scheme_for(module)
                if scheme is None or not scheme.activations.coarse:
                    continue
                finer = (
                    ActivationScheme(WIDE.bits, True)
                    if format == EIGHT_BITS
                    else replace(scheme.activations, group_size=SMALL_GROUP)
                )
                found.append(Override(module, replace(scheme, activations=finer)))
    return replace(recipe, overrides=(*found, *recipe.overrides))
