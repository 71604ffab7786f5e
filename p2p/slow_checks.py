"""Verdicts that take their time: a few are sought at once, the router bounds how many wait."""

import logging
from collections import deque
from collections.abc import Awaitable, Callable

import trio

from p2p.gossipsub import Judged, Validate
from protocol.types import Verdict

logger = logging.getLogger(__name__)

VALIDATORS = 4  # verdicts sought at once

SlowCheck = Callable[[str, bytes, bytes], Awaitable[Verdict]]  # as `Check`, in its own time


class SlowChecks:
    """`answer` gets each verdict; `note_error` the topic of a check that raised."""

    def __init__(
        self, answer: Callable[[Judged], object], note_error: Callable[[str], None], patience_s: float
    ) -> None:
        self.by_topic: dict[str, SlowCheck] = {}
        self._answer = answer
        self._note_error = note_error
        self._patience_s = patience_s
        self._waiting: deque[Validate] = deque()  # bounded by the router's validations_max
        self._wake = trio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def queue(self, effect: Validate) -> None:
        self._waiting.append(effect)
        self._wake.set()

    async def run(self) -> None:
        """Seek verdicts, until cancelled."""
        async with trio.open_nursery() as nursery:
            for _ in range(VALIDATORS):
                nursery.start_soon(self._run_one)

    async def _run_one(self) -> None:
        while True:
            while not self._waiting:
                self._wake = trio.Event() if self._wake.is_set() else self._wake
                await self._wake.wait()
            ticket, topic, data, forwarder, _ = self._waiting.popleft()
            verdict = await self._seek(topic, data, forwarder)
            self._answer(Judged(((ticket, verdict),)))

    async def _seek(self, topic: str, data: bytes, forwarder: bytes) -> Verdict:
        check = self.by_topic.get(topic)
        if check is None:
            return Verdict.IGNORE
        try:
            with trio.move_on_after(self._patience_s):
                return await check(topic, data, forwarder)
        except Exception:  # a bug of ours that this message brought out: the message is lost, the node is not
            self._note_error(topic)
            logger.exception("the check of %s failed", topic)
        return Verdict.IGNORE
