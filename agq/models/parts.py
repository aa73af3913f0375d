"""Names: which Hugging Face module plays which role in a decoder.

Canonical names carry the base prefix (`model.`, `transformer.`); a Checkpoint resolves folders that omit it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from agq.models.spec import ModelSpec


@dataclass(frozen=True)
class Linear:
    """A linear layer of the Hugging Face model: y[out_features] = W[out_features, in_features] x + b.

    Roles: q, k, v, o, gate, up, down; `qkv` for BLOOM's fused projection, whose rows are interleaved per head as
    [heads, 3, head_dim]; head, project_in, project_out outside the blocks.
    """

    module: str
    role: str
    out_features: int
    in_features: int
    bias: bool

    @property
    def weight(self) -> str:
        """Name of the weight tensor."""
        return f"{self.module}.weight"


@dataclass(frozen=True)
class BlockParts:
    """One decoder block. `groups`: roles that read the same input, in the order in which they are computed."""

    index: int
    prefix: str
    attn_norm: str
    mlp_norm: str
    linears: dict[str, Linear]
    groups: tuple[tuple[str, ...], ...]

    def modules(self) -> list[str]:
        """Module names of the linears, in order."""
        return [linear.module for linear in self.linears.values()]


@dataclass(frozen=True)
class ModelParts:
    """Module names of a whole model; None where the architecture has no such part."""

    spec: ModelSpec
    base_prefix: str
    embed: str
    position: str | None
    embed_norm: str | None
    final_norm: str | None
    head: str
    project_in: str | None
    project_out: str | None
    block_pattern: str  # of a block's tensors, "{}" is its index
    attn_norm: str
    mlp_norm: str
    linears: tuple[Linear, ...]  # of one block, module names without the block's prefix
    groups: tuple[tuple[str, ...], ...] = field(default=(("q", "k", "v"), ("o",), ("gate", "up"), ("down",)))

    def prefix(self, index: int) -> str:
        """Tensor-name prefix of a block, with its last dot."""
        return self.block_pattern.format(index)

    def block(self, index: int) -> BlockParts:
        """Names of block `index`."""
        if not 0 <= index < self.spec.layers:
            raise IndexError(f"block {index} of {self.spec.layers}")
        prefix = self.prefix(index)
        linears = {
            item.role: Linear(prefix + item.module, item.role, item.out_features, item.in_features, item.bias)
            for item in self.linears
        }
        return BlockParts(index, prefix, prefix + self.attn_norm, prefix + self.mlp_norm, linears, self.groups)

    def blocks(self) -> Iterator[BlockParts]:
        """All blocks in order."""
        return (self.block(index) for index in range(self.spec.layers))

    @property
    def head_linear(self) -> Linear:
        """The output head (its weight is the embedding's when the model is tied)."""
        return Linear(self.head, "head", self.spec.vocab, self.spec.embed_dim, False)

    @property
    def project_in_linear(self) -> Linear | None:
        """Embedding width to block width."""
        if self.project_in is None:
            return None
        return Linear(self.project_in, "project_in", self.spec.hidden, self.spec.embed_dim, False)

    @property
    def project_out_linear(self) -> Linear | None:
        """Block width to embedding width."""
        if self.project_out is None:
            return None
        return Linear(self.project_out, "project_out", self.spec.embed_dim, self.spec.hidden, False)

    def block_linears(self) -> Iterator[Linear]:
        """Every linear of every block."""
        return (linear for block in self.blocks() for linear in block.linears.values())

    def all_linears(self) -> Iterator[Linear]:
        """Every nn.Linear that the Hugging Face model has: blocks, projections, head."""
        yield from self.block_linears()
        for linear in (self.project_in_linear, self.project_out_linear):
            if linear is not None:
                yield linear
        yield self.head_linear

    @cached_property
    def _by_module(self) -> dict[str, Linear]:
        return {item.module: item for item in self.all_linears()}

    def linear(self, module: str) -> Linear | None:
        """The linear of a module name, or None."""
        return self._by_module.get(module)

    def norm_tensors(self, module: str) -> dict[str, tuple[int, ...]]:
        """Names and shapes of a norm's tensors (none without affine parameters)."""
        if not self.spec.norm_affine:
            return {}
        shapes: dict[str, tuple[int, ...]] = {f"{module}.weight": (self.spec.hidden,)}
        if self.spec.layer_norm:
            shapes[f"{module}.bias"] = (self.spec.hidden,)
        return shapes

    def dense_tensors(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of everything that is not a linear's: embedding, positions, norms."""
        spec = self.spec
        shapes: dict[str, tuple[int, ...]] = {f"{self.embed}.weight": (spec.vocab, spec.embed_dim)}
        if self.position is not None:
            shapes[f"{self.position}.weight"] = (spec.context + spec.position_offset, spec.hidden)
        norms = [self.embed_norm, self.final_norm]
        norms += [name for block in self.blocks() for name in (block.attn_norm, block.mlp_norm)]
        for module in norms:
            if module is not None:
                shapes.update(self.norm_tensors(module))
        return shapes
