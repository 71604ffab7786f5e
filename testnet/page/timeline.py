"""Fold the events of all nodes, in the order of their times, into what a page shows: bounded, whatever the run.

An event is a line of a log, and a log is anybody's word: fields are taken only if they are of the type they should be.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from testnet.fault_kinds import FAULT_ENDED, FAULT_STARTED, NETWORK_LOG
from testnet.page.axis import Axis, Series
from testnet.page.fields import get_int, get_text, get_texts
from testnet.page.histogram import Histogram
from testnet.page.trips import CLAIMS, RELEASES, Mark, Trips

FAULTS_MAX = 1_024
STAGES = {
    "client": "request to released answer",
    "inference": "request taken to claim",
    "verifier": "claim to attestation",
    "validator": "answer to settled leaf",
}
FOLLOWED = frozenset(
    {
        *("request.sent", "request.retried", "request.hedged", "request.refused", "request.left", "request.taken"),
        *("result.received", "result.disputed", "attestation.made", "leaf.settled"),
        *("request.failed", "request.drawn_again"),
        *CLAIMS,
        *RELEASES,
    }
)


@dataclass
class Fault:
    """A fault of the run: from `began_ms` to `ended_ms`, 0 if its end is not told. `who` names nodes."""

    id: str
    kind: str
    who: tuple[str, ...]
    began_ms: int
    ended_ms: int = 0


class Timeline:
    """Give it every event with `take`. `roles` are the roles of the nodes, by name.

    `cut` names the nodes whose logs have lost their beginning: of those nothing is known before `first_ms`.
    """

    def __init__(self, start_ms: int, roles: Mapping[str, str], cut: frozenset[str] = frozenset()) -> None:
        self.roles = roles
        self.cut = cut
        self.first_ms: dict[str, int] = {}  # when each node first said anything
        self.axis = Axis(start_ms)
        self.events = 0
        self.sent, self.released, self.failed, self.refused = (self.axis.sums() for _ in range(4))
        self.fees = self.axis.sums()  # grains of leaves settled
        self.stages = {role: self.axis.histograms() for role in STAGES}  # by when each ended
        self.heights: dict[str, Series[int]] = {name: self.axis.lasts() for name in roles}
        self.rss: dict[str, Series[int]] = {name: self.axis.lasts() for name in roles}
        self.peers: dict[str, tuple[str, ...]] = {}
        self.faults: dict[str, Fault] = {}
        self.trips = Trips()

    def take(self, node: str, event: Mapping[str, Any]) -> None:
        """One event of a node, or of the network itself (NETWORK_LOG)."""
        name, time_ms = get_text(event, "name"), get_int(event, "time_ms")
        if time_ms is None:
            return
        self.axis.find_bin(time_ms)
        self.events += 1
        if node in self.roles:
            self.first_ms.setdefault(node, time_ms)
        if node == NETWORK_LOG:
            self._take_fault(name, event, time_ms)
        elif node in self.roles:
            self._take_of_node(node, name, event, time_ms)

    def _take_of_node(self, node: str, name: str, event: Mapping[str, Any], time_ms: int) -> None:
        if name in FOLLOWED:
            self._take_of_request(node, name, event, time_ms)
        elif name == "node.status":
            for series, key in ((self.heights, "height"), (self.rss, "rss_bytes")):
                if (value := get_int(event, key)) is not None:
                    series[node].put(time_ms, value)
        elif name == "block.decided" and (height := get_int(event, "height")) is not None:
            self.heights[node].put(time_ms, height)
        elif name == "node.peers":
            self.peers[node] = get_texts(event, "peers")

    def _take_of_request(self, node: str, name: str, event: Mapping[str, Any], time_ms: int) -> None:
        request_id, attempt = get_text(event, "request_id"), get_int(event, "attempt") or 0
        trip = self.trips.by_id.get(request_id)
        if name == "request.sent" and trip is None:
            trip = self.trips.begin(request_id, time_ms)
            self.sent.put(time_ms, 1)
        if name == "request.refused" and self.roles[node] == "client":
            self.refused.put(time_ms, 1)
        if name == "leaf.settled" and not get_int(event, "zero_reason"):
            self.fees.put(time_ms, get_int(event, "amount") or 0)
        if trip is None:
            return  # long over, or begun before the logs
        trip.add(Mark(time_ms, node, name, attempt))
        match name:
            case "claim.made" | "lie.told" if taken := trip.find("request.taken", attempt=attempt):
                self._time("inference", taken.time_ms, time_ms)
            case "attestation.made" if claim := trip.find_last(*CLAIMS):
                self._time("verifier", claim.time_ms, time_ms)
            case "request.attested" | "request.answered" if not trip.ended_ms:
                self.trips.end(trip, time_ms)
                self.released.put(time_ms, 1)
                self._time("client", trip.began_ms, time_ms)
            case "request.drawn_again" if not trip.ended_ms:
                self.trips.end(trip, time_ms, get_text(event, "code") or "drawn again")
            case "request.failed" if not trip.ended_ms:
                self.trips.end(trip, time_ms, get_text(event, "code") or "failed")
                self.failed.put(time_ms, 1)
            case "leaf.settled" if trip.ended_ms and not get_int(event, "zero_reason"):
                self._time("validator", trip.ended_ms, time_ms)
                self.trips.settle(trip, time_ms)

    def _time(self, role: str, began_ms: int, ended_ms: int) -> None:
        self.stages[role].open(ended_ms, Histogram).add(max(0, ended_ms - began_ms))

    def _take_fault(self, name: str, event: Mapping[str, Any], time_ms: int) -> None:
        fault_id = get_text(event, "fault")
        if name == FAULT_STARTED and len(self.faults) < FAULTS_MAX:
            who = [name for key in ("nodes", "groups", "sources", "targets") for name in get_texts(event, key)]
            self.faults[fault_id] = Fault(fault_id, get_text(event, "kind"), tuple(who), time_ms)
        elif name == FAULT_ENDED and fault_id in self.faults:
            self.faults[fault_id].ended_ms = time_ms
