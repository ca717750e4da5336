"""Asking the broker for the ends of pending cuts: one question for all that are needed at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from aiokafka import TopicPartition

from schemas.topics import Role
from streams.cut import PendingCut
from streams.interfaces import EndOffsets

Asked = tuple[PendingCut, dict[Role, TopicPartition]]
"""A cut, and the topic partitions whose ends it is made of."""

LEADER_RETRY_SECONDS: Final = 0.25


class Questions:
    """Those of one cycle. `answered` is called whenever a cut was filled in, or cannot be."""

    def __init__(self, end_offsets: EndOffsets, answered: Callable[[], None]) -> None:
        self.broken: BaseException | None = None
        """What no retry helps: nobody would ever answer."""
        self._end_offsets = end_offsets
        self._answered = answered
        self._asking: set[asyncio.Task[None]] = set()

    def ask(self, asked: Sequence[Asked]) -> None:
        """Fill these cuts in as soon as the broker answers; returns at once."""
        question = asyncio.get_running_loop().create_task(self._fill_in(list(asked)))
        self._asking.add(question)
        question.add_done_callback(self._ended)

    def cancel(self) -> None:
        """Forget every question."""
        for question in self._asking:
            question.cancel()

    async def _fill_in(self, asked: list[Asked]) -> None:
        """A cut of a partition without a leader waits by itself until there is one."""
        while asked:
            offsets = await self._end_offsets.end_offsets({tp for _, inputs in asked for tp in inputs.values()})
            left = []
            for cut, inputs in asked:
                if all(tp in offsets for tp in inputs.values()):
                    cut.ends = {role: offsets[tp] for role, tp in inputs.items()}
                else:
                    left.append((cut, inputs))
            if len(left) < len(asked):
                self._answered()
            asked = left
            if asked:
                await asyncio.sleep(LEADER_RETRY_SECONDS)

    def _ended(self, question: asyncio.Task[None]) -> None:
        self._asking.discard(question)
        if not question.cancelled() and (error := question.exception()) is not None:
            self.broken = error
            self._answered()
