"""Where a process spends its processor time: crypto, framing, routing, the event loop, the rest.

A timer of processor time interrupts every few milliseconds and notes who was at work: the innermost frame that belongs
to one of the parts below. It costs next to nothing, where a profiler of every call would weigh small functions double.
"""

import linecache
import signal
from collections import Counter
from types import FrameType

from testnet.bench.parts import Parts

EVERY_S = 0.001
PARTS = {
    "p2p.noise_records": "crypto",
    "cryptography": "crypto",
    "nacl": "crypto",
    "protocol.keys": "crypto",
    "p2p.gossipsub.signing": "crypto",
    "p2p.yamux": "framing",
    "p2p.yamux_output": "framing",
    "p2p.yamux_receiver": "framing",
    "p2p.yamux_session": "framing",
    "p2p.yamux_words": "framing",
    "p2p.muxed": "framing",
    "p2p.muxed_stream": "framing",
    "p2p.muxed_writer": "framing",
    "p2p.secured": "framing",
    "p2p.hardening": "framing",
    "p2p.gossipsub.wire": "framing",
    "p2p.protobuf": "framing",
    "p2p.outbox": "framing",
    "protocol": "framing",
    "p2p.gossip": "routing",
    "p2p.gossipsub": "routing",
    "p2p.guard": "routing",
    "p2p.incoming": "routing",
    "p2p.outgoing": "routing",
    "p2p.wire": "loop",
    "trio": "loop",
    "outcome": "loop",
    "p2p.libp2p_net": "rest",
    "testnet": "rest",
}
NAMES = ("crypto", "framing", "routing", "loop", "rest")


class Sampler:
    """`start`, then `stop` for the shares in percent. One at a time in a process, in its main thread."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._parts = Parts(PARTS)

    def start(self) -> None:
        self._counts.clear()
        signal.signal(signal.SIGPROF, self._note)
        signal.setitimer(signal.ITIMER_PROF, EVERY_S, EVERY_S)

    def stop(self) -> dict[str, float]:
        """By name, in percent; empty when nothing was noted."""
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        total = self._counts.total()
        shares = {name: round(100 * self._counts[name] / total, 1) for name in NAMES} if total else {}
        self._counts.clear()
        return shares

    def _note(self, number: int, frame: FrameType | None) -> None:
        # The line tells a hash made in the middle of routing, which has no frame of its own. Some bytecode has no line.
        line = frame.f_lineno if frame is not None else None
        if frame is not None and line is not None and "sha256(" in linecache.getline(frame.f_code.co_filename, line):
            self._counts["crypto"] += 1
            return
        self._counts[self._parts.find(frame)] += 1
