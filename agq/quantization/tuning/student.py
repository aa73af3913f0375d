"""The quantized model in a form that can be trained, beside the original.

The scales of the weights and the rounding of the codes are trained (linear.py) so that the quantized model's
predictions come closest to the float model's on text (KL divergence). Zero points and clips stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recomputed

from agq.models.parts import BlockParts
from agq.numerics.hadamard import fwht, random_words
from agq.numerics.quantizers import Grid
from agq.quantization.transforms.parameters import TransformedParameters
from agq.quantization.tuning.linear import TrainedLinear, straight_through
from agq.recipe import Recipe
from agq.reference.attention import Positions
from agq.reference.block import Block, InputTransform, Linear
from agq.reference.decoder import Embedding, finish, shaped_logits
from agq.reference.quantizers import activation_quantizer, kv_quantizer, kv_rotation
from agq.reporting.progress import Progress

# Temperature at which replaced tokens are drawn.
_DRAW = 1.5
# Rows of logits that stand in memory at once, and tokens that the float model computes at once, by kind of device.
ROWS = {"cpu": 512, "cuda": 2048}
_AT_ONCE = {"cpu": 1, "cuda": 8192}
# Activations up to this many bytes are kept for the backward pass; more are computed again, a block at a time. A GPU
# keeps them up to this share of the memory that is free before.
KEPT_ACTIVATIONS = 1 << 30
_KEPT_SHARE = 0.35

Make = Callable[[tuple[int, ...]], Tensor]


def _kept_activations(device: torch.device) -> float:
    if device.type != "cuda":
        return KEPT_ACTIVATIONS
    return _KEPT_SHARE * torch.cuda.mem_get_info(device)[0]


def _input(recipe: Recipe, module: str, clip: float, hadamard: int) -> InputTransform:
    scheme = recipe.scheme_for(module)
    quantizer = straight_through(
        activation_quantizer(scheme.activations if scheme else None, clip, sinks=recipe.sink_tokens)
    )
    return (lambda x: quantizer(fwht(x, hadamard))) if hadamard else quantizer


def trained_block(
    parameters: TransformedParameters,
    recipe: Recipe,
    part: BlockParts,
    solved: dict[str, tuple[Tensor, Grid]],
    dtypes: dict[str, torch.dtype],
    clips: dict[str, float],
) -> tuple[Block, dict[str, TrainedLinear]]:
    """A decoder block with the quantizers of the recipe, and its quantized linears by module; `refresh` puts their
    weights into the block. Arguments as for Tuner."""
    block = parameters.block(part.index)
    block.keys_values = straight_through(kv_quantizer(recipe.kv_bits))
    block.queries_keys = kv_rotation(recipe.kv_bits, parameters.spec.head_dim)
    linears = {}
    for role, linear in part.linears.items():
        module, old = linear.module, block.linears[role]
        weight = old.weight
        if module in solved:
            linears[module] = TrainedLinear(*solved[module], weight, dtypes[module], recipe.tune.rounding)
            weight = torch.empty(0)
        transform = _input(recipe, module, clips.get(module, 1.0), old.hadamard)
        block.linears[role] = Linear(weight, old.bias, transform, old.hadamard)
    return block, linears


def refresh(block: Block, part: BlockParts, linears: dict[str, TrainedLinear]) -> Block:
    """The block with the present weights of its trained linears."""
    for role, linear in part.linears.items():
        if linear.module in linears:
            block.linears[role].weight = linears[linear.module].weight()
    return block


class Tuner:
    """The quantized model in a form that can be trained.

    solved: module -> codes and grid of every quantized linear; dtypes: module -> that its scales are stored in; clips:
    of the inputs, by module.
    """

    def __init__(
        self,
        parameters: TransformedParameters,
        recipe: Recipe,
        solved: dict[str, tuple[Tensor, Grid]],
        dtypes: dict[str, torch.dtype],
        clips: dict[str, float],
    ) -> None:
        self.parameters, self.recipe = parameters, recipe
        self.kept_activations = _kept_activations(parameters.device)
        self.linears: dict[str, TrainedLinear] = {}
        spec, parts = parameters.spec, parameters.parts
        self.embedding = Embedding(parameters)
        self.final_norm = parameters.norm(parts.final_norm)
        self.project_out = parameters.linear(parts.project_out) if parts.project_out else None
        self.head = self.embedding.table if spec.tied else parameters.tensor(f"{parts.head}.weight")
        self.blocks: list[tuple[Block, BlockParts]] = []
        for part in parts.blocks():
            block, linears = trained_block(parameters, recipe, part, solved, dtypes, clips)
            self.linears.update(linears)
            self.blocks.append((block, part))

    def student(self, tokens: Tensor, positions: Positions) -> Tensor:
        """What the head of the quantized model reads: float32 [batch, n, embed_dim]."""
        return self.decoded(self.embedding(tokens), positions)

    def decoded(self, h: Tensor, positions: Positions) -> Tensor:
        """The same, of embedded tokens, float32 [batch, n, hidden]."""
        spec, (batch, length, _) = self.parameters.spec, h.shape
        activations = batch * length * spec.layers * (16 * spec.hidden + 8 * spec.ffn + spec.heads * length)
        kept = 4 * activations <= self.kept_activations
        for block, part in self.blocks:
            if kept:
                h = self._block(block, part, h, positions)
            else:
                h = recomputed(self._block, block, part, h, positions, use_reentrant=False, preserve_rng_state=False)
        return finish(h, self.final_norm, self.project_out)

    def _block(self, block: Block, part: BlockParts, h: Tensor, positions: Positions) -> Tensor:
        return refresh(block, part, self.linears)(h, positions)

    @torch.no_grad()
    def teacher(
        self, windows: Tensor, positions: Positions, progress: Progress | None = None, make: Make = torch.empty
    ) -> Tensor:
        """What the head of the float model reads for all windows: float32 [windows, n, embed_dim], in what `make`
        allocates. One block in memory at a time."""
        progress = progress or Progress()
        spec, device = self.parameters.spec, self.parameters.device
        progress.stage("original's predictions", spec.layers, "blocks")
        count, length = windows.shape
        hidden = make((count, length, spec.hidden))
        result = hidden if spec.embed_dim == spec.hidden else make((count, length, spec.embed_dim))
        step = max(1, _AT_ONCE[device.type] // length)
        parts = [slice(start, start + step) for start in range(0, count, step)]
        for part in parts:
            hidden[part] = self.embedding(windows[part].to(device)).to(hidden.device)
        for index in range(spec.layers):
            block = self.parameters.block(index)
            for part in parts:
                hidden[part] = block(hidden[part].to(device), positions).to(hidden.device)
            progress.advance(f"block {index + 1} of the original")
        for part in parts:
            result[part] = finish(hidden[part].to(device), self.final_norm, self.project_out).to(result.device)
        return result

    def divergence(self, wanted: Tensor, found: Tensor, temperatures: Sequence[float] = (1.0,)) -> Iterator[Tensor]:
        """Sums of KL(float || quantized) over rows of what the head reads, both [rows, embed_dim], a part at a time;
        the mean over `temperatures`, each times its square, which keeps the gradients' sizes alike."""
        rows = ROWS[found.device.type]
        for start in range(0, wanted.shape[0], rows):
            part = slice(start, start + rows)
            yield recomputed(
                kl_divergence,
                wanted[part],
                found[part],
                self.logits,
                temperatures,
                use_reentrant=False,
                preserve_rng_state=False,
            )

    def logits(self, hidden: Tensor) -> Tensor:
        """float32 [rows, embed_dim] -> [rows, vocab]."""
        return shaped_logits(hidden @ self.head.t(), self.parameters.spec)

    @torch.no_grad()
    def varied(
        self,
        windows: Tensor,
        positions: Positions,
        share: float,
        progress: Progress | None = None,
        make: Make = torch.empty,
    ) -> Tensor:
        """`windows`, int64 [count, n], with a share of the tokens drawn from the float model's predictions for their
        places. The first of each stays."""
        if not share:
            return windows
        progress = progress or Progress()
        device = self.parameters.device
        result, wanted = windows.clone(), self.teacher(windows, positions, progress, make)
        progress.stage("draw tokens", len(windows), "windows")
        for index, (window, stored) in enumerate(zip(result, wanted, strict=True)):
            hidden, rows = stored.to(device), ROWS[device.type]
            draws = random_words(self.recipe.seed, f"tune.draw.{index}", 2 * (len(window) - 1)) / 2.0**64
            replace, draw = torch.from_numpy(draws).to(device, torch.float32).chunk(2)
            for start in range(0, len(window) - 1, rows):
                part = slice(start, min(start + rows, len(window) - 1))
                total = torch.softmax(self.logits(hidden[part]) / _DRAW, dim=-1).cumsum(dim=-1)
                drawn = torch.searchsorted(total, draw[part, None]).squeeze(-1).clamp_(max=total.shape[-1] - 1)
                follows = window[part.start + 1 : part.stop + 1]
                follows.copy_(torch.where(replace[part] < share, drawn, follows.to(device)))
            progress.advance(f"tokens of window {index + 1} drawn")
        return result


def kl_divergence(
    wanted: Tensor, found: Tensor, head: Callable[[Tensor], Tensor], temperatures: Sequence[float] = (1.0,)
) -> Tensor:
    """KL(float || quantized) of the logits that `head` makes of both [rows, embed_dim], summed over the rows: the mean
    over `temperatures`, each times its square."""
    wanted, found = head(wanted), head(found)
    total = wanted.new_zeros(())
    for temperature in temperatures:
        target, logits = (F.log_softmax(x / temperature, dim=-1) for x in (wanted, found))
        total = total + temperature**2 * F.kl_div(logits, target, reduction="sum", log_target=True)
    return total / len(temperatures)
