"""The line about an answer's speed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agq.reporting import console

if TYPE_CHECKING:
    from agq.runtime.session import Session


def report_speed(session: Session, generation: Any) -> None:
    """`-v`: speed of loading, prompt and text."""
    values = generation.statistics
    new = values.prompt_tokens - values.cached_tokens
    console.detail(
        f"load {session.load_s:.3f} s; prompt {new} tokens, {values.prefill_tokens_per_s:.1f} tok/s; "
        f"eval {values.tokens} tokens, {values.decode_tokens_per_s:.1f} tok/s; first token after "
        f"{values.time_to_first_token_s:.3f} s; peak memory {values.peak_rss_bytes / 1e6:.1f} MB; "
        f"{values.finish_reason}"
        + (f"; look-up {values.accepted} of {values.drafted} tokens right" if values.drafted else "")
    )
