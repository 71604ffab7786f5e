"""Follow the event logs of all nodes while they run, and count what a report needs.

The logs are JSON lines (`roles.eventlog`); a node that was killed may leave a torn line, which is passed over.
"""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from testnet.fault_kinds import FAULT_STARTED, NETWORK_LOG

READ_BYTES_MAX = 8 * 1024 * 1024  # at a time, of one log


@dataclass
class Tally:
    """What the nodes of a network have said so far. Requests are counted by id, each once."""

    first_sent_ms: dict[str, int] = field(default_factory=dict)
    answered: set[str] = field(default_factory=set)
    released_ms: dict[str, int] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)  # request id -> code
    settled_ms: dict[str, int] = field(default_factory=dict)
    zero_leaves: Counter[int] = field(default_factory=Counter)  # by reason
    retried: int = 0
    direct: int = 0
    attempts: int = 0
    lies: dict[str, dict[str, Any]] = field(default_factory=dict)  # claim id -> the liar's own record of it
    proven: dict[str, dict[str, Any]] = field(default_factory=dict)  # claim id -> the reporter's record
    blobs: list[dict[str, Any]] = field(default_factory=list)
    reported_ms: list[int] = field(default_factory=list)  # when oracle reports had reached the ledger: first and last
    runs: int = 0  # of scheduled work, settled
    audited: int = 0  # audits of leases that were answered on the ledger
    faults: dict[str, dict[str, Any]] = field(default_factory=dict)  # by id: the line of its start, with `ended_ms`
    blocks: int = 0
    height: int = 0

    @property
    def ended(self) -> int:
        """Requests that are over, one way or the other."""
        return len(self.released_ms) + len(self.failed)

    @property
    def unsettled(self) -> int:
        """Released results that the ledger has not settled yet."""
        return len(self.released_ms.keys() - self.settled_ms.keys())

    def latencies_ms(self) -> list[int]:
        """From the first sending of each answered request to the release of its result, sorted."""
        return sorted(
            attested - self.first_sent_ms[request]
            for request, attested in self.released_ms.items()
            if request in self.first_sent_ms
        )

    def take(self, event: dict[str, Any]) -> None:
        """Count one event."""
        request = str(event.get("request_id", ""))
        time_ms = int(event.get("time_ms", 0))
        match event.get("name"):
            case "request.sent":
                self.first_sent_ms.setdefault(request, time_ms)
                self.attempts += 1
            case "request.retried":
                self.retried += 1
            case "request.direct":
                self.direct += 1
            case "result.received":
                self.answered.add(request)
            case "request.attested" | "request.answered":
                self.released_ms.setdefault(request, time_ms)
            case "request.failed":
                self.failed[request] = str(event.get("code", ""))
            case "leaf.settled":
                self._settle(event, request, time_ms)
            case "lie.told":
                self.lies[str(event.get("claim_id") or request)] = event
            case "wrong.proven":
                self.proven[str(event.get("claim_id"))] = event
            case "blob.fetched":
                self.blobs.append(event)
            case "oracle.reported":
                if event.get("height"):
                    self.reported_ms[1:] = [time_ms]
            case "run.settled":
                self.runs += int(bool(event.get("height")))
            case "audit.answered":
                self.audited += int(bool(event.get("height")))
            case "fault.started" | "fault.ended" if event.get("node") == NETWORK_LOG:
                self._take_fault(event, time_ms)
            case "block.decided":
                self.blocks += 1
                self.height = max(self.height, int(event.get("height", 0)))

    def _take_fault(self, event: dict[str, Any], time_ms: int) -> None:
        fault = str(event.get("fault"))
        if event["name"] == FAULT_STARTED:
            self.faults[fault] = {**event, "ended_ms": 0}
        elif fault in self.faults:
            self.faults[fault]["ended_ms"] = time_ms

    def _settle(self, event: dict[str, Any], request: str, time_ms: int) -> None:
        reason = int(event.get("zero_reason") or 0)
        if reason:
            self.zero_leaves[reason] += 1
        else:
            self.settled_ms.setdefault(request, time_ms)


class EventFollower:
    """Reads what has been added to each node's `events.jsonl` since the last time."""

    def __init__(self, directories: list[Path]) -> None:
        self.tally = Tally()
        self._logs = [directory / "events.jsonl" for directory in directories]
        self._offsets = dict.fromkeys(self._logs, 0)

    def read(self) -> Tally:
        """Take in all whole lines that are new."""
        for log in self._logs:
            while self._read_some(log):
                pass
        return self.tally

    def _read_some(self, log: Path) -> bool:
        try:
            with log.open("rb") as file:
                if log.stat().st_size < self._offsets[log]:
                    self._offsets[log] = 0  # the log has grown too long and was begun anew
                file.seek(self._offsets[log])
                data = file.read(READ_BYTES_MAX)
        except FileNotFoundError:
            return False
        whole, newline, _ = data.rpartition(b"\n")
        self._offsets[log] += len(whole) + len(newline)
        for line in whole.splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                continue  # torn by a crash; the node that comes back starts a new line
            if isinstance(event, dict):
                self.tally.take(event)
        return len(data) == READ_BYTES_MAX


def compute_percentile(values: list[int], percent: int) -> int:
    """The nearest-rank percentile of sorted values; 0 of none.

    >>> compute_percentile([10, 20, 30, 40], 50), compute_percentile([10, 20, 30, 40], 95)
    (20, 40)
    """
    return values[max(0, -(-percent * len(values) // 100) - 1)] if values else 0
