"""What goes wrong on purpose: one plan for the simulator, for real processes and for Hypothesis.

A plan is whole numbers and node names only, so that it travels in a replay token and shrinks. Times are milliseconds
since the network started. Nodes are named as in `testnet.json`: `inference-0`, `validator-0`.
"""

import json
from dataclasses import asdict, dataclass, fields
from typing import Any

from protocol.errors import LocalError
from protocol.types import BP

PARTITIONS_MAX = 64
CRASHES_MAX = 256
DELAY_MS_MAX = 60_000
TEXT_BYTES_MAX = 64 * 1024

# The class that runs in place of an honest role, by role.
LIARS = {"inference": "testnet.liars:LyingInference"}


@dataclass(frozen=True)
class Partition:
    """From `start_ms` to `end_ms` nodes of different groups cannot reach each other; those in none form one more."""

    start_ms: int
    end_ms: int
    groups: tuple[tuple[str, ...], ...]

    def separates(self, one: str, other: str) -> bool:
        return self._find_group(one) != self._find_group(other)

    def _find_group(self, node: str) -> int:
        return next((index for index, group in enumerate(self.groups) if node in group), -1)


@dataclass(frozen=True)
class Crash:
    """A node dies at `at_ms` as by `kill -9` and is started again at `back_ms`; 0 means never."""

    node: str
    at_ms: int
    back_ms: int = 0


@dataclass(frozen=True)
class FaultPlan:
    """Faults of a whole run. Shares are basis points, per message and link; `jitter_ms` reorders.

    Loss and duplication strike gossip; a stream resends what is lost, so there loss is delay. `latency_ms` is one way.
    """

    loss_bp: int = 0
    duplicate_bp: int = 0
    latency_ms: int = 2
    jitter_ms: int = 3
    partitions: tuple[Partition, ...] = ()
    crashes: tuple[Crash, ...] = ()

    def __post_init__(self) -> None:
        _require_range("loss_bp", self.loss_bp, BP)
        _require_range("duplicate_bp", self.duplicate_bp, BP)
        _require_range("latency_ms", self.latency_ms, DELAY_MS_MAX)
        _require_range("jitter_ms", self.jitter_ms, DELAY_MS_MAX)
        if len(self.partitions) > PARTITIONS_MAX or len(self.crashes) > CRASHES_MAX:
            raise LocalError(f"a plan holds at most {PARTITIONS_MAX} partitions and {CRASHES_MAX} crashes")
        for cut in self.partitions:
            if not 0 <= cut.start_ms < cut.end_ms:
                raise LocalError(f"a partition ends after it starts, not {cut.start_ms} to {cut.end_ms} ms")
        for crash in self.crashes:
            if crash.at_ms < 0 or 0 != crash.back_ms <= crash.at_ms:
                raise LocalError(f"{crash.node} must come back after its crash at {crash.at_ms} ms, or never (0)")

    def separates(self, one: str, other: str, at_ms: int) -> bool:
        """Whether a partition stands between two nodes at a time since the start."""
        return any(cut.start_ms <= at_ms < cut.end_ms and cut.separates(one, other) for cut in self.partitions)

    @property
    def quiet_ms(self) -> int:
        """The time since the start after which no partition and no crash begins or ends."""
        times = [0, *(cut.end_ms for cut in self.partitions)]
        times += [time for crash in self.crashes for time in (crash.at_ms, crash.back_ms)]
        return max(times)

    def to_text(self) -> str:
        """Compact JSON that leaves out what is as usual.

        >>> FaultPlan(loss_bp=500, crashes=(Crash("inference-0", 1_000, 4_000),)).to_text()
        '{"crashes":[["inference-0",1000,4000]],"loss_bp":500}'
        """
        usual = asdict(FaultPlan())
        document: dict[str, Any] = {k: v for k, v in asdict(self).items() if v != usual[k]}
        if self.partitions:
            document["partitions"] = [[cut.start_ms, cut.end_ms, cut.groups] for cut in self.partitions]
        if self.crashes:
            document["crashes"] = [[crash.node, crash.at_ms, crash.back_ms] for crash in self.crashes]
        return json.dumps(document, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_text(cls, text: str) -> "FaultPlan":
        """Read `to_text` back. Raises LocalError with what is wrong."""
        if len(text) > TEXT_BYTES_MAX:
            raise LocalError(f"a fault plan has at most {TEXT_BYTES_MAX} bytes, not {len(text)}")
        try:
            document = json.loads(text)
        except ValueError as error:
            raise LocalError(f"a fault plan is JSON: {error}") from error
        return cls.from_document(document)

    @classmethod
    def from_document(cls, document: object) -> "FaultPlan":
        known = {each.name for each in fields(cls)}
        if not isinstance(document, dict) or not document.keys() <= known:
            raise LocalError(f"a fault plan is an object with any of {', '.join(sorted(known))}")
        values: dict[str, Any] = dict(document)
        try:
            values["partitions"] = tuple(_read_partition(*each) for each in document.get("partitions", ()))
            values["crashes"] = tuple(_read_crash(*each) for each in document.get("crashes", ()))
            return cls(**values)
        except (TypeError, ValueError) as error:
            raise LocalError(f"a fault plan has whole numbers and names: {error}") from error


def _read_partition(start_ms: Any, end_ms: Any, groups: Any) -> Partition:
    named = tuple(tuple(_text(node) for node in group) for group in groups)
    return Partition(_whole(start_ms), _whole(end_ms), named)


def _read_crash(node: Any, at_ms: Any, back_ms: Any = 0) -> Crash:
    return Crash(_text(node), _whole(at_ms), _whole(back_ms))


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"{value!r} is not a whole number")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a name")
    return value


def _require_range(name: str, value: int, value_max: int) -> None:
    if type(value) is not int or not 0 <= value <= value_max:
        raise LocalError(f"{name} is a whole number from 0 to {value_max}, not {value!r}")
