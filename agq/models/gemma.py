"""What Gemma 2 and the text part of Gemma 3 share: RMSNorms with a gain of 1 + weight before and after attention and
feed-forward, scaled embeddings, GELU gates, layers with and without a sliding window."""

from dataclasses import replace

from agq.errors import AgqError
from agq.models.config import Config
from agq.models.gated import Defaults, read_decoder
from agq.models.spec import ModelSpec
from agq.models.windows import sliding_layers, window_size, windows

DEFAULTS = Defaults(
    kv_heads=4,
    head_dim=256,
    context=8192,
    tied=True,
    activation="gelu_pytorch_tanh",
    activation_name="hidden_activation",
)
# Of transformers' classes: tokens that a query sees; the inverse square of the factor of the scores.
_WINDOW, _QUERY_SCALAR = 4096, 256


def read_gemma(config: Config, family: str, defaults: Defaults, every: int, caps: float) -> ModelSpec:
    """ModelSpec of a Gemma's config.json, as far as both have it.

    every: each so manieth layer sees all tokens, where there are no `layer_types`; caps: the default of
    `final_logit_softcapping`.
    """
    if config.flag("use_bidirectional_attention", False):
        raise AgqError(f"{config.where}: `use_bidirectional_attention` is not supported: agq runs causal models")
    found = read_decoder(config, family, defaults)
    usual = [bool((index + 1) % every) for index in range(found.layers)]
    size, layers = windows(config, window_size(config, _WINDOW), sliding_layers(config, found.layers, usual))
    scalar = config.number("query_pre_attn_scalar", low=1e-6, high=1e6, default=_QUERY_SCALAR)
    return replace(
        found,
        mlp_bias=False,
        attention_scale=scalar**-0.5,
        post_norms=True,
        norm_offset=1.0,
        embed_scale=found.hidden**0.5,
        logit_softcap=soft_cap(config, "final_logit_softcapping", caps),
        window=size,
        window_layers=layers,
    )


def soft_cap(config: Config, name: str, default: float) -> float:
    """c of c tanh(x / c), 0 for none. default: of a config.json that does not name it; `null` means none."""
    if config.values.get(name) is None:
        return default if config.silent(name) else 0.0
    return config.number(name, low=1e-3, high=1e6)
