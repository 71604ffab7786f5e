"""Gossip that must arrive, as it was sealed: what this node said and accepted lately, for peers that missed it.

Nothing is kept longer than anyone would take it, so what is expired is neither served nor asked for. Both ends of a
pull forget by the times in the messages, never by when they got them: what one has dropped does not come back.
"""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from protocol.check import AHEAD_MS_MAX, WINDOW_MS
from protocol.ledger.transactions import read_transaction
from protocol.messages import GOSSIP_LIST_MAX, Claims, GetMissed, Missed, MissedItem, Transactions
from protocol.registry import find_topic
from protocol.sketch import build_filter, find_missing
from roles.mailbox import Opened

KEPT_MS = AHEAD_MS_MAX + WINDOW_MS  # after it was sealed: nothing a claim or transaction says may lie further ahead
KEPT_MAX = 4_096
KEPT_BYTES_MAX = 8 * 1024 * 1024
ANSWER_BYTES_MAX = 256 * 1024
UNFIT_MAX = 4_096
EXPIRE_MS = 1_000  # between two looks for what has expired
UNFIT_AGAIN_MS = 5_000  # what was not taken is asked for again after so long, then after twice as long


@dataclass(frozen=True)
class _Kept:
    topic: str
    envelope: bytes
    sealed_ms: int
    until_ms: int


@dataclass
class _Unfit:
    again_ms: int
    wait_ms: int


def is_pulled(topic: str) -> bool:
    """Whether what this topic carries must arrive."""
    found = find_topic(topic)
    return found is not None and found.is_pulled


class Backlog:
    """Bounded by count, bytes and time, oldest out first."""

    def __init__(self) -> None:
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()
        self._unfit: OrderedDict[bytes, _Unfit] = OrderedDict()
        self._expired_ms = 0  # when what had expired was dropped last
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, topic: str, envelope: bytes, opened: Opened, now_ms: int) -> None:
        """Remember a message of ours, or one that was accepted, if its topic is pulled and its time is not over."""
        if not is_pulled(topic):
            return
        name, sealed_ms = opened.name, opened.sealed_ms
        until_ms = min(sealed_ms + KEPT_MS, _compute_end_ms(opened.message, sealed_ms + KEPT_MS))
        known = self._kept.get(name)
        if until_ms <= now_ms or (known is not None and known.sealed_ms >= sealed_ms):
            return
        self._unfit.pop(name, None)
        if known is not None:
            self._drop(name)
        self._kept[name] = _Kept(topic, envelope, sealed_ms, until_ms)
        self.size_bytes += len(envelope)
        while len(self._kept) > KEPT_MAX or self.size_bytes > KEPT_BYTES_MAX:
            self._drop(next(iter(self._kept)))

    def has(self, name: bytes) -> bool:
        return name in self._kept

    def note_unfit(self, name: bytes, now_ms: int) -> None:
        """A pulled message was not taken, which may change with the ledger: leave it for a while."""
        known = self._unfit.pop(name, None)
        wait_ms = 2 * known.wait_ms if known is not None else UNFIT_AGAIN_MS
        self._unfit[name] = _Unfit(now_ms + wait_ms, wait_ms)
        if len(self._unfit) > UNFIT_MAX:
            self._unfit.popitem(last=False)

    def ask(self, topics: Iterable[str], since_ms: int, salt: bytes, now_ms: int) -> GetMissed:
        """The question for what was sealed since then on these topics and is not here."""
        self._expire(now_ms)
        wanted = tuple(topics)
        names = [
            name
            for name, item in self._kept.items()
            if item.sealed_ms >= since_ms and item.topic in wanted and item.until_ms > now_ms
        ]
        names += [name for name, item in self._unfit.items() if item.again_ms > now_ms]
        return GetMissed(wanted, since_ms, salt, build_filter(salt, names))

    def answer(self, question: GetMissed, tip: int, now_ms: int) -> Missed:
        """What a peer seems to lack, the oldest first, as much as fits one answer."""
        self._expire(now_ms)
        topics = frozenset(question.topics)
        names = (
            name
            for name, item in self._kept.items()
            if item.sealed_ms >= question.since_ms and item.topic in topics and item.until_ms > now_ms
        )
        missing = find_missing(question.filter, question.salt, names)
        fitting: list[MissedItem] = []
        size_bytes = 0
        for name in missing[:GOSSIP_LIST_MAX]:
            item = self._kept[name]
            size_bytes += len(item.envelope)
            if size_bytes > ANSWER_BYTES_MAX:
                break
            fitting.append(MissedItem(item.topic, item.envelope))
        return Missed(tip, len(missing) - len(fitting), tuple(fitting))

    def _expire(self, now_ms: int) -> None:
        if 0 <= now_ms - self._expired_ms < EXPIRE_MS:
            return
        self._expired_ms = now_ms
        for name in [name for name, item in self._kept.items() if item.until_ms <= now_ms]:
            self._drop(name)

    def _drop(self, name: bytes) -> None:
        self.size_bytes -= len(self._kept.pop(name).envelope)


def _compute_end_ms(message: Any, otherwise_ms: int) -> int:
    """When the last item of a message is over."""
    match message:
        case Claims(items):
            return max((work.claim.deadline_ms for work in items), default=0)
        case Transactions(items):
            return max((read_transaction(data).valid_until_ms for data in items), default=0)
    return otherwise_ms
