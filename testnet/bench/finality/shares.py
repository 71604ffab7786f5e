"""Where a validator spends its processor time: signatures, the disk, the ledger's rules, gossip and so on.

A timer of processor time interrupts every few milliseconds. What the main thread has used since then goes to the
innermost of our modules at work there, what other threads have used to whatever one of them is doing.
"""

import signal
import sys
import threading
import time
from collections import defaultdict
from types import FrameType

from testnet.bench.parts import Parts

EVERY_S = 0.005
PARTS = {
    "nacl": "signatures",
    "protocol.keys": "signatures",
    "protocol.codec": "codec",
    "protocol.envelope": "codec",
    "protocol.bare": "codec",
    "protocol.signing": "codec",
    "protocol.ledger": "ledger",
    "protocol.consensus": "consensus",
    "protocol.mempool": "mempool",
    "protocol.check": "mempool",
    "roles": "consensus",
    "roles.chain": "disk",
    "roles.durable": "disk",
    "roles.votelog": "disk",
    "roles.eventlog": "disk",
    "roles.mempool": "mempool",
    "roles.mailbox": "gossip",
    "roles.pull": "gossip",
    "roles.backlog": "gossip",
    "protocol.sketch": "gossip",
    "p2p": "gossip",
    "trio": "loop",
    "outcome": "loop",
}
NAMES = ("signatures", "codec", "ledger", "mempool", "consensus", "disk", "gossip", "loop", "rest")
IDLE = frozenset({"threading", "queue", "trio._core._thread_cache"})  # innermost in threads that wait


class Sampler:
    """`start`, then `stop` for the shares in percent. One at a time in a process, in its main thread."""

    def __init__(self) -> None:
        self._spent_s: dict[str, float] = defaultdict(float)
        self.parts = Parts(PARTS)
        self._main_s = self._all_s = 0.0

    def start(self) -> None:
        self._spent_s.clear()
        self._main_s, self._all_s = time.thread_time(), time.process_time()
        signal.signal(signal.SIGPROF, self._note)
        signal.setitimer(signal.ITIMER_PROF, EVERY_S, EVERY_S)

    def stop(self) -> dict[str, float]:
        """By name, in percent; empty when nothing was noted."""
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        total = sum(self._spent_s.values())
        return {name: round(100 * self._spent_s[name] / total, 1) for name in NAMES} if total else {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        main_s, all_s = time.thread_time(), time.process_time()
        main, threads = main_s - self._main_s, all_s - self._all_s - (main_s - self._main_s)
        self._main_s, self._all_s = main_s, all_s
        self._spent_s[self.parts.find(frame)] += main
        if threads > 0:
            self._spent_s[self._find_busy()] += threads

    def _find_busy(self) -> str:
        """What a thread other than this one is doing."""
        for thread, frame in sys._current_frames().items():
            if thread != threading.get_ident() and frame.f_globals.get("__name__") not in IDLE:
                return self.parts.find(frame)
        return "rest"
