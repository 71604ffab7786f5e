"""Can others reach us? Ask peers, one after the other, to dial us back, and know what to say when they cannot.

Pure: who to ask and what follows from the answers. One peer that got through is enough, since a liar gains nothing by
saying yes; that nobody can is believed of CONFIRMATIONS peers, or of all there are.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from protocol.types import AtMost, Line

ADDRESSES_MAX = 4  # asked about at once
CONFIRMATIONS = 3
AGAIN_S = 1_800.0  # a reachable node makes sure
PAUSE_S_MIN, PAUSE_S_MAX = 15.0, 600.0  # an unreachable one may have been mended
ALONE_S = 1.0  # while there is nobody to ask, or nobody who answers
ASKED_MAX = 64


class Reach(StrEnum):
    UNKNOWN = "unknown"
    REACHABLE = "reachable"
    UNREACHABLE = "unreachable"


@dataclass(frozen=True)
class DialMe:
    """The request: please dial these multiaddrs and see whether you find me there."""

    addresses: Annotated[tuple[Line, ...], AtMost(ADDRESSES_MAX)]


@dataclass(frozen=True)
class Dialled:
    """The answer: the IP address we see you at, and for each address why it failed; an empty text: found you.

    Of a busy peer, or about addresses of others, `tried` is empty.
    """

    observed: Line
    tried: Annotated[tuple[Line, ...], AtMost(ADDRESSES_MAX)]


class Reachability:
    """What is known of our own reachability. Times in seconds of any steady clock."""

    def __init__(self, addresses: tuple[str, ...]) -> None:
        self.addresses = addresses[:ADDRESSES_MAX]
        self.state = Reach.UNKNOWN
        self._failures: list[str] = []  # of this round, as peers told
        self._observed = ""
        self._asked: dict[bytes, None] = {}
        self._rounds_failed = 0
        self._due_s = float("-inf")

    def choose(self, peers: Iterable[bytes], now_s: float) -> tuple[bytes | None, float]:
        """The peer to ask now, if any, and when to look again."""
        if now_s < self._due_s:
            return None, self._due_s
        left = [peer for peer in peers if peer not in self._asked]
        if not (left or self._asked):
            return None, now_s + ALONE_S
        if left and len(self._asked) < ASKED_MAX:
            return left[0], now_s
        self._end_round(now_s)
        return None, self._due_s

    def note(self, peer: bytes, answer: Dialled | None, now_s: float) -> None:
        """What a peer said; None when it said nothing."""
        self._asked[peer] = None
        if answer is None:
            return
        self._observed = answer.observed
        if "" in answer.tried:
            self.state = Reach.REACHABLE
            self._start_round(now_s + AGAIN_S)
            self._rounds_failed = 0
            return
        if answer.tried:
            self._failures.append(answer.tried[0])
        if len(self._failures) >= CONFIRMATIONS:
            self._end_round(now_s)

    @property
    def advice(self) -> str:
        """What to do about it, for the operator; empty while there is nothing to do."""
        if self.state is Reach.REACHABLE:
            return ""
        seen = f"; peers see it at {self._observed}" if self._observed else ""
        if self.state is Reach.UNKNOWN:
            return f"no peer has dialled this node back yet{seen}"
        where = ", ".join(self.addresses) or "no address"
        port = self.addresses[0].split("/")[4] if self.addresses else "its port"
        return (
            f"peers cannot dial this node at {where}{seen}: open or forward TCP port {port} to this machine, and start "
            "it with --announce /ip4/PUBLIC-ADDRESS/tcp/PORT if it listens behind another address"
        )

    def _end_round(self, now_s: float) -> None:
        if self._failures:
            self.state = Reach.UNREACHABLE
        self._rounds_failed += 1
        pause_s = ALONE_S if not self._failures else PAUSE_S_MIN * 2.0 ** min(self._rounds_failed - 1, 8)
        self._start_round(now_s + min(pause_s, PAUSE_S_MAX))

    def _start_round(self, due_s: float) -> None:
        self._due_s = due_s
        self._failures.clear()
        self._asked.clear()
