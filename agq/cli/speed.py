"""What is said about a session and its answers: kernels, speed, and why an answer ended."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from agq.reporting import console
from agq.reporting.output import counted

if TYPE_CHECKING:
    from agq.runtime.session import Session


def report_speed(session: Session, generation: Any, brief: bool = False) -> None:
    """`-v`: speed of loading, prompt and text, in one line. brief: without -v a short one, on a terminal."""
    values = generation.statistics
    if console.settings.verbosity < 1:
        if brief and values.tokens and console.is_terminal(sys.stdout) and console.is_terminal(sys.stderr):
            speed = f", {values.decode_tokens_per_s:.1f} tok/s" if values.decode_tokens_per_s else ""
            console.say(console.paint(f"{counted(values.tokens, 'token')}{speed}", "dim"))
        return
    new = values.prompt_tokens - values.cached_tokens
    console.detail(
        f"load {session.load_s:.3f} s; prompt {counted(new, 'token')}, {values.prefill_tokens_per_s:.1f} tok/s; "
        f"eval {counted(values.tokens, 'token')}, {values.decode_tokens_per_s:.1f} tok/s; first token after "
        f"{values.time_to_first_token_s:.3f} s; peak memory {values.peak_rss_bytes / 1e6:.1f} MB; "
        + (f"seed {values.seed}" if values.seed is not None else "greedy")
        + f"; {values.finish_reason}"
        + (f"; look-up {values.accepted} of {values.drafted} tokens right" if values.drafted else "")
    )


def report_end(session: Session, generation: Any, told: bool) -> None:
    """A line where something else than the model ended the text. told: the user said how many tokens, and need not be
    told that they are reached."""
    values = generation.statistics
    if values.finish_reason == "length" and not told:
        console.say(f"stopped at {counted(values.tokens, 'token')} (-n)")
    elif values.finish_reason == "context":
        console.say(f"the context of {session.engine.context} tokens is full after {values.tokens} generated ones (-c)")


def describe(session: Session) -> None:
    """`-vv`: what computes each layer."""
    if console.settings.verbosity < 2:
        return
    engine = session.engine
    console.detail(
        f"{session.artifact.path}: {engine.spec.family}, {engine.spec.layers} layers; kernels {engine.library.isa}, "
        f"{engine.threads} threads; context {engine.context}, KV cache {engine.kv_bits} bits, "
        f"{engine.kv_bytes / 1e6:.1f} MB; workspace {engine.workspace_bytes / 1e6:.1f} MB"
    )
    if sinks := session.artifact.info.sink_tokens:
        console.detail(f"sink tokens: the first {sinks} of a sequence, with 8 bits where activations have 4")
    if engine.pruning is not None:
        console.detail(f"token pruning: {engine.pruning.describe()}")
    for plan in engine.plan():
        console.detail(
            f"{plan.name}: weights {plan.weights}, activations {plan.activations}, accumulator {plan.accumulator}, "
            f"kernel {plan.decode_kernel} (decode), {plan.prefill_kernel} (prefill)"
        )
