"""Token pruning in the torch reference: what `agq.recipe.pruning` describes, by computing the whole sequence at once.

The engine keeps a list of positions for each layer's keys and values; here the same comes out of computing every layer
on the tokens that reach it. Tokens after the prompt (`prompt`) are never pruned and attend to what is left in their
layer, as in decoding: causal attention makes both the same function.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from agq.errors import AgqError
from agq.recipe.pruning import PruningOptions
from agq.reference.attention import Positions
from agq.reference.decoder import ReferenceModel, finish


@dataclass(frozen=True)
class PrunedStates:
    """hidden: float32 [n, embed_dim], what the output head reads; of a pruned token its state at the layer that
    removed it (after attention), which leaves through the final norm early. kept: bool [n], survivors of all layers.
    counts: tokens after each layer."""

    hidden: Tensor
    kept: Tensor
    counts: list[int]


def log2_probability(p: Tensor) -> Tensor:
    """The 4-bit log2 quantizer of softmax outputs, float32 -> float32: 2^-k with k = round(-log2 p), 0 where k >=
    16."""
    k = torch.round(-torch.log2(p))
    return torch.where(k < 16, torch.exp2(-k), torch.zeros_like(p))


def layer_positions(positions: Positions, alive: Tensor, options: PruningOptions) -> Positions:
    """Positions of the tokens that reach a layer. positions: of the whole sequence; alive: int64, ascending."""
    return positions.of_tokens(alive, options.positions == "paper")


def importance(shares: Tensor, options: PruningOptions) -> Tensor:
    """What each token is worth to a layer: float32 [r], the attention that it pays to the first one, summed over heads.

    shares: float32 [1, heads, r], the layer's softmax outputs of the first token.
    """
    shares = log2_probability(shares) if options.scores == "code-compat" else shares
    return shares[0].double().sum(dim=0).float().cpu()


def choose_victims(importance: Tensor, pinned: Tensor, gamma: float, tokens: int | None = None) -> Tensor:
    """Which of r tokens are removed: bool [r], floor(tokens * gamma) of those that are not `pinned` (bool [r]), the
    least important ones (float32 [r]), of equals the first. tokens: of the prompt among them, default all."""
    count = math.floor((importance.numel() if tokens is None else tokens) * gamma)
    order = torch.argsort(importance.masked_fill(pinned, math.inf), stable=True)
    victims = torch.zeros_like(pinned)
    victims[order[: min(count, int((~pinned).sum()))]] = True
    return victims


@torch.inference_mode()
def pruned_states(
    model: ReferenceModel,
    tokens: Tensor,
    options: PruningOptions,
    wanted: Tensor | None = None,
    protect_wanted: bool = True,
    prompt: int | None = None,
) -> PrunedStates:
    """Runs `tokens` (int64 [n]) with pruning.

    Args:
        wanted: bool [n], tokens whose logits will be read; default the last of the prompt and all that follow it.
        protect_wanted: those are never removed, and nothing is in the last layer (nothing reads what it would leave
            out). False: evaluation; only the first and the last token of the prompt stay for certain.
        prompt: how many of the tokens are the prompt; default all.

    Raises AgqError for layers that the model lacks.
    """
    n = tokens.numel()
    prompt = n if prompt is None else prompt
    if not 0 < prompt <= n:
        raise AgqError(f"a prompt of {prompt} tokens is not the beginning of {n}")
    layers = model.spec.layers
    blocks = set(options.check(layers).blocks)
    if protect_wanted:
        blocks.discard(layers - 1)
    pinned = torch.zeros(n, dtype=torch.bool)
    pinned[: max(1, model.sink_tokens)] = True
    pinned[prompt - 1 :] = True
    if wanted is not None and protect_wanted:
        pinned |= wanted
    h = model.embedding(tokens.reshape(1, -1).to(model.device))
    positions = model.positions(n)
    out: Tensor | None = None
    alive = torch.arange(n)
    counts = []
    for index, block in enumerate(model.blocks):
        shares: list[Tensor] | None = [] if index in blocks else None
        x = block.attention_input(h)
        c = block.context(x, layer_positions(positions, alive, options), shares)
        before, h = h, block.after_attention(h, x, c)
        if shares:
            worth = importance(shares[0], options)
            victims = choose_victims(worth, pinned[alive], options.gamma, int((alive < prompt).sum()))
            if victims.any():
                left = finish(h[:, victims], model.final_norm, model.project_out)[0]
                out = torch.zeros(n, left.shape[-1], device=left.device) if out is None else out
                out[alive[victims]] = left
                before, h, alive = before[:, ~victims], h[:, ~victims], alive[~victims]
        counts.append(alive.numel())
        x = block.mlp_input(before, h)
        h = block.after_mlp(h, x, block.mlp_hidden(x))
    last = finish(h, model.final_norm, model.project_out)[0]
    kept = torch.zeros(n, dtype=torch.bool)
    kept[alive] = True
    if out is None:
        return PrunedStates(last, kept, counts)
    out[alive] = last
    return PrunedStates(out, kept, counts)
