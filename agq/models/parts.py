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

    Roles: q, k, v, o, gate, up, down; `qkv` for a fused projection (`qkv_rows` says where its rows stand), `gate_up`
    for gate's rows and then up's; head, project_in, project_out outside the blocks.
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


# Orders of the rows of a fused projection of q, k and v: [heads, 3, head_dim] (BLOOM, GPT-NeoX), or all of q's, k's and
# v's one after the other (Phi-3).
HEADS, STACKED = "heads", "stacked"


def qkv_rows(spec: ModelSpec, order: str) -> tuple[list[int], list[int], list[int]]:
    """Which rows of a fused projection are q's, k's and v's, each in the order of its heads."""
    if order == STACKED:
        k, v = spec.q_size, spec.q_size + spec.kv_size
        return list(range(k)), list(range(k, v)), list(range(v, v + spec.kv_size))
    width = spec.head_dim

    def rows(which: int) -> list[int]:
        return [(3 * head + which) * width + channel for head in range(spec.heads) for channel in range(width)]

    return rows(0), rows(1), rows(2)


# Roles of a block's norms, in the order of computation; also the names of fields of ModelParts.
BLOCK_NORMS = ("attn_norm", "q_norm", "k_norm", "attn_post_norm", "mlp_norm", "mlp_post_norm")


@dataclass(frozen=True)
class BlockParts:
    """One decoder block.

    Attributes:
        norms: module by role: attn_norm and mlp_norm before attention and feed-forward (after the additions where the
            spec says `norm_after`), attn_post_norm and mlp_post_norm of what they give, q_norm and k_norm. Those that
            the architecture has.
        groups: roles that read the same input, in the order in which they are computed.
        qkv_order: see `qkv_rows`.
    """

    index: int
    prefix: str
    norms: dict[str, str]
    linears: dict[str, Linear]
    groups: tuple[tuple[str, ...], ...]
    qkv_order: str = HEADS

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
    attn_norm: str | None
    mlp_norm: str | None
    linears: tuple[Linear, ...]  # of one block, module names without the block's prefix
    groups: tuple[tuple[str, ...], ...] = field(default=(("q", "k", "v"), ("o",), ("gate", "up"), ("down",)))
    attn_post_norm: str | None = None
    mlp_post_norm: str | None = None
    q_norm: str | None = None
    k_norm: str | None = None
    qkv_order: str = HEADS
    # How names in folders may begin, and how they begin here.
    aliases: tuple[tuple[str, str], ...] = ()
    # How names of other parts of a larger model begin, which are left out.
    left_out: tuple[str, ...] = ()

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
        norms = {role: getattr(self, role) for role in BLOCK_NORMS}
        norms = {role: prefix + module for role, module in norms.items() if module is not None}
        return BlockParts(index, prefix, norms, linears, self.groups, self.qkv_order)

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

    def norm_width(self, role: str) -> int:
        """Channels of a norm: `hidden`, but for q_norm and k_norm."""
        spec = self.spec
        if role not in ("q_norm", "k_norm"):
            return spec.hidden
        whole = spec.q_size if role == "q_norm" else spec.kv_size
        return whole if spec.qk_norm == "whole" else spec.head_dim

    def norm_tensors(self, module: str, role: str = "") -> dict[str, tuple[int, ...]]:
        """Names and shapes of a norm's tensors (none without affine parameters). role: of a block's norm."""
        if not self.spec.norm_affine:
            return {}
        shape = (self.norm_width(role),)
        shapes: dict[str, tuple[int, ...]] = {f"{module}.weight": shape}
        if self.spec.layer_norm:
            shapes[f"{module}.bias"] = shape
        return shapes

    def dense_tensors(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of everything that is not a linear's: embedding, positions, norms."""
        spec = self.spec
        shapes: dict[str, tuple[int, ...]] = {f"{self.embed}.weight": (spec.vocab, spec.embed_dim)}
        if self.position is not None:
            shapes[f"{self.position}.weight"] = (spec.context + spec.position_offset, spec.hidden)
        for name in (self.embed_norm, self.final_norm):
            if name is not None:
                shapes.update(self.norm_tensors(name))
        for block in self.blocks():
            for role, name in block.norms.items():
                shapes.update(self.norm_tensors(name, role))
        return shapes
