"""How many streams of one protocol a peer may have open towards us, and how fast it may open them. Pure.

Our own nodes keep one stream per protocol open and open another only when that one broke.
"""

from collections import Counter

OPEN_MAX = 8  # of one protocol, at once
BURST = 64.0  # of all protocols, at once
PER_S = 8.0  # and in the long run
PEERS_MAX = 1_024


class StreamLimits:
    """Counts inbound streams by peer and protocol. Times in seconds of any steady clock."""

    def __init__(self) -> None:
        self._open: Counter[tuple[bytes, str]] = Counter()  # bounded by the muxer's streams per connection
        self._buckets: dict[bytes, tuple[float, float]] = {}  # what a peer has left, and since when; oldest first

    def is_too_fast(self, node: bytes, now_s: float) -> bool:
        """Whether a stream just opened is one too many within a short time. Counts it."""
        left, since_s = self._buckets.pop(node, (BURST, now_s))
        left = min(BURST, left + (now_s - since_s) * PER_S)
        if len(self._buckets) >= PEERS_MAX:
            del self._buckets[next(iter(self._buckets))]
        self._buckets[node] = (max(0.0, left - 1.0), now_s)
        return left < 1.0

    def begin(self, node: bytes, protocol: str) -> bool:
        """A stream opens; False when the peer has its share already. Every one that was True must `end`."""
        if self._open[node, protocol] >= OPEN_MAX:
            return False
        self._open[node, protocol] += 1
        return True

    def end(self, node: bytes, protocol: str) -> None:
        self._open[node, protocol] -= 1
        if not self._open[node, protocol]:
            del self._open[node, protocol]

    def get_sizes(self) -> dict[str, int]:
        """How much is remembered, by name."""
        return {"streams": self._open.total(), "stream_buckets": len(self._buckets)}
