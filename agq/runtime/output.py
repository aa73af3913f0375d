"""What a generation says: the text of the tokens that the model chose, stop strings taken into account, and why it
ends.
"""

from collections.abc import Sequence

from agq.runtime.tokenizer import StreamDecoder, Tokenizer


class StopStrings:
    """Holds text back as long as it may be the beginning of a stop string."""

    def __init__(self, stops: Sequence[str]):
        self._stops = [stop for stop in stops if stop]
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """(text that can be shown, whether a stop string was met; the text then ends before the earliest one)."""
        if not self._stops:
            return text, False
        self._held += text
        places = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if places:
            shown, self._held = self._held[: min(places)], ""
            return shown, True
        keep = max(self._suffix(stop) for stop in self._stops)
        cut = len(self._held) - keep
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown, False

    def _suffix(self, stop: str) -> int:
        """Length of the longest end of the held text that `stop` begins with."""
        for size in range(min(len(stop) - 1, len(self._held)), 0, -1):
            if self._held.endswith(stop[:size]):
                return size
        return 0

    def finish(self) -> str:
        """What is still held back: it is no stop string."""
        held, self._held = self._held, ""
        return held


class Output:
    """The tokens of one generation, and their text as it becomes complete.

    Args:
        prompt: ids before the first token. ends: ids that end the text and are no part of it.
        stop: texts that end it, and are no part of it either.
        limit: most tokens; None: any number. context: positions of prompt and text together.

    Attributes:
        tokens: ids so far. text: what was given out so far.
        reason: "" while it goes on; "eos", "stop", "length" or "context" (see Statistics.finish_reason) at its end.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt: Sequence[int],
        ends: frozenset[int],
        stop: Sequence[str],
        limit: int | None,
        context: int,
    ):
        self._ends, self._limit, self._room = ends, limit, context - len(prompt)
        self._stops = StopStrings(stop)
        self._decoder = StreamDecoder(tokenizer, prompt)
        self._pieces: list[str] = []
        self.tokens: list[int] = []
        self.reason = ""

    @property
    def text(self) -> str:
        """All text that was given out."""
        return "".join(self._pieces)

    def push(self, token: int) -> str:
        """Takes the next token; returns the text that is complete now, often empty. Sets `reason` at the end."""
        if token in self._ends:
            self.reason = "eos"
            return ""
        self.tokens.append(token)
        text, stopped = self._stops.push(self._decoder.push(token))
        if stopped:
            self.reason = "stop"
        elif self._limit is not None and len(self.tokens) >= self._limit:
            self.reason = "length"
        elif len(self.tokens) > self._room:
            self.reason = "context"
        self._pieces.append(text)
        return text

    def finish(self) -> str:
        """The text that was held back, once `reason` is set; a stop string in it changes the reason."""
        if self.reason == "stop":
            return ""
        text, stopped = self._stops.push(self._decoder.finish())
        if not stopped:
            text += self._stops.finish()
        elif self.reason != "eos":
            self.reason = "stop"
        self._pieces.append(text)
        return text
