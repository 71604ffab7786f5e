"""Which of the words a node says every second belong into its event log: few enough for months, enough for a report."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

QUIET_MS = 10_000  # without news, until a node says all the same that it is there
PEERS_MAX = 512  # named in one line


@dataclass
class Vitals:
    """What was told last. `tell` is asked once a second."""

    told_ms: int = -QUIET_MS
    height: int = -1
    peers: tuple[str, ...] | None = None

    def tell(self, status: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Names and fields of the events that a status (as in `status.json`) gives rise to.

        >>> vitals, status = Vitals(), {"time_ms": 5, "height": 2, "rss_bytes": 7, "peers": ["12D3KooWa"]}
        >>> [name for name, _ in vitals.tell(status)], list(vitals.tell(status))
        (['node.peers', 'node.status'], [])
        """
        peers = tuple(sorted(status["peers"]))
        if peers != self.peers:
            self.peers = peers
            yield "node.peers", {"peers": peers[:PEERS_MAX], "count": len(peers)}
        if status["height"] != self.height or status["time_ms"] - self.told_ms >= QUIET_MS:
            self.height, self.told_ms = status["height"], status["time_ms"]
            yield "node.status", {"height": status["height"], "rss_bytes": status["rss_bytes"], "peers": len(peers)}
