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

EVERY_S = 0.005
# Module names, the longest that fits decides; whatever fits none belongs to whoever called it.
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
        self._parts: dict[str, str | None] = {}
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
        self._spent_s[self.find_part(frame)] += main
        if threads > 0:
            self._spent_s[self._find_busy()] += threads

    def _find_busy(self) -> str:
        """What a thread other than this one is doing."""
        for thread, frame in sys._current_frames().items():
            if thread != threading.get_ident() and frame.f_globals.get("__name__") not in IDLE:
                return self.find_part(frame)
        return "rest"

    def find_part(self, frame: FrameType | None) -> str:
        """The part of the innermost frame that belongs to one."""
        while frame is not None:
            part = self._find(frame.f_globals.get("__name__", ""))
            if part is not None:
                return part
            frame = frame.f_back
        return "rest"

    def _find(self, module: str) -> str | None:
        if module not in self._parts:
            name = module
            while name and name not in PARTS:
                name = name.rpartition(".")[0]
            self._parts[module] = PARTS.get(name)
        return self._parts[module]
