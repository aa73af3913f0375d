"""The slots of an engine among threads: who may write which KV cache, and what each holds."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from agq.errors import AgqError


class Slots:
    """Hands out the slots of one engine. Thread-safe.

    A slot is taken by one text at a time. What it held last is remembered: the next text that begins alike gets it, and
    a text without likeness gets the slot that was used longest ago.
    """

    def __init__(self, count: int):
        self._cached: list[list[int]] = [[] for _ in range(count)]
        self._owners: dict[int, int] = {}  # slot that is taken -> thread that took it
        self._waiting: set[int] = set()  # threads
        self._free = list(range(count))  # those that were used longest ago first
        self._changed = threading.Condition()
        self._closed = False

    def take(self, ids: Sequence[int] = ()) -> tuple[int, list[int]]:
        """A free slot for a text of these ids, and the ids that it holds. Waits until one is free.

        Raises:
            AgqError: all are taken by this thread itself, or by others that wait, too: it would wait for ever; the
                model is closed.
        """
        with self._changed:
            while True:
                if self._closed:
                    raise closed()
                if self._free:
                    slot = max(self._free, key=lambda slot: likeness(self._cached[slot], ids))
                    return slot, self._hand_out(slot)
                me = threading.get_ident()
                if all(owner == me or owner in self._waiting for owner in self._owners.values()):
                    raise AgqError(
                        f"{len(self._cached)} texts are being made already, and the model has no further slot",
                        hint="finish or close an earlier stream, or load the model with more slots",
                    )
                self._waiting.add(me)
                try:
                    self._changed.wait()
                finally:
                    self._waiting.discard(me)

    def take_more(self, most: int) -> list[int]:
        """Up to `most` further slots, those that are free now."""
        with self._changed:
            slots = self._free[: max(most, 0)]
            for slot in slots:
                self._hand_out(slot)
            return slots

    def give(self, slot: int, cached: Sequence[int] = ()) -> None:
        """Takes a slot back. cached: the ids that it holds."""
        with self._changed:
            del self._owners[slot]
            self._free.append(slot)
            self._cached[slot] = list(cached)
            self._changed.notify_all()

    def close(self) -> None:
        """Nobody gets a slot any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _hand_out(self, slot: int) -> list[int]:
        self._free.remove(slot)
        self._owners[slot] = threading.get_ident()
        held, self._cached[slot] = self._cached[slot], []
        return held


def closed() -> AgqError:
    """The error of a model that is used after its end."""
    return AgqError("the model is closed", hint="load it again")


def likeness(held: Sequence[int], ids: Sequence[int]) -> int:
    """Tokens of the beginning that two texts share; 0 where they are no more than half of either: too few to give up
    what is held.
    """
    same = 0
    for left, right in zip(held, ids, strict=False):
        if left != right:
            break
        same += 1
    return same if 2 * same > min(len(held), len(ids)) else 0
