"""The faults a plan may hold, each a piece of data: what goes wrong, where, from when to when.

Times are milliseconds since the start of the run, an end of 0 means never. A *way* is one direction of a link, from a
source to a target. Nodes are named as in `testnet.json`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from p2p.delay_line import CLEAR, DELAY_MS_MAX, Conditions, Silence
from protocol.errors import LocalError
from protocol.types import BP

NODES_MAX = 250  # named in one fault
BYTES_PER_S_MAX = 10**10
TIME_MS_MAX = 366 * 24 * 3_600_000
FAULT_STARTED, FAULT_ENDED = "fault.started", "fault.ended"  # in the event log, with the fault's id
NETWORK_LOG = "testnet"  # whose events those are: no node's own
SILENCES = {"": Silence.NONE, "stall": Silence.STALL, "blackhole": Silence.BLACKHOLE}


@dataclass(frozen=True)
class Partition:
    """From `start_ms` to `end_ms` nodes of different groups cannot reach each other; those in none form one more.

    With `one_way` only what nodes of the first group send to others is cut; what others send reaches them. Connections
    stay up, unaware, and what is sent waits, as TCP does; with `refuse` they break at once, and dials are refused.
    """

    start_ms: int
    end_ms: int
    groups: tuple[tuple[str, ...], ...]
    one_way: bool = False
    refuse: bool = False
    kind: ClassVar[str] = "partition"

    def separates(self, one: str, other: str) -> bool:
        """Whether they are in different groups."""
        return self._find_group(one) != self._find_group(other)

    def cuts(self, source: str, target: str) -> bool:
        """Whether nothing passes from `source` to `target` while it lasts."""
        return self.separates(source, target) and (not self.one_way or self._find_group(source) == 0)

    def _find_group(self, node: str) -> int:
        return next((index for index, group in enumerate(self.groups) if node in group), -1)


@dataclass(frozen=True)
class LinkFault:
    """The ways from each of `sources` to each of `targets` (none named: every node) are bad from start to end.

    `both_ways` adds the ways back. Late by `delay_ms` and a draw up to `jitter_ms`; at most `bytes_per_s` (0: no
    limit); `loss_bp` basis points of what is sent are lost. `silence` is "", "stall" (what is sent waits and comes
    through at the end) or "blackhole" (it is taken and never arrives, and nobody is told). Whole numbers all.
    """

    start_ms: int
    end_ms: int
    sources: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    both_ways: bool = False
    delay_ms: int = 0
    jitter_ms: int = 0
    bytes_per_s: int = 0
    loss_bp: int = 0
    silence: str = ""

    @property
    def kind(self) -> str:
        """What people call it: the worst thing it does."""
        if self.silence:
            return self.silence
        worst = (("loss", self.loss_bp), ("bandwidth", self.bytes_per_s))
        return next((name for name, value in worst if value), "delay")

    @property
    def conditions(self) -> Conditions:
        return Conditions(self.delay_ms, self.jitter_ms, self.bytes_per_s, self.loss_bp, SILENCES[self.silence])

    def covers(self, source: str, target: str) -> bool:
        """Whether the way from `source` to `target` is one of those meant."""
        return self._leads(source, target) or (self.both_ways and self._leads(target, source))

    def _leads(self, source: str, target: str) -> bool:
        return (not self.sources or source in self.sources) and (not self.targets or target in self.targets)


@dataclass(frozen=True)
class Pause:
    """A node stands still, as by SIGSTOP, from `start_ms` to `end_ms`.

    It handles nothing and sends nothing meanwhile; its connections stay. At the end it goes on where it was: timers
    that came due and messages that arrived are handled then, in the order in which they were due.
    """

    node: str
    start_ms: int
    end_ms: int
    kind: ClassVar[str] = "pause"


@dataclass(frozen=True)
class Crash:
    """A node dies at `at_ms` as by `kill -9` and is started again at `back_ms`; 0 means never. Its disk stays."""

    node: str
    at_ms: int
    back_ms: int = 0
    kind: ClassVar[str] = "kill"

    @property
    def start_ms(self) -> int:
        return self.at_ms

    @property
    def end_ms(self) -> int:
        return self.back_ms


Fault = Partition | LinkFault | Pause | Crash


@dataclass(frozen=True)
class Named:
    """One fault of a plan with its id, the same in every log: `partition-0`, `link-2`, `pause-0`, `crash-1`."""

    id: str
    fault: Fault

    @property
    def start_ms(self) -> int:
        return self.fault.start_ms

    @property
    def end_ms(self) -> int:
        """0: it never ends."""
        return self.fault.end_ms

    def describe(self) -> dict[str, Any]:
        """What the event log says of it: id, kind, and every field that is not as usual."""
        values = {each.name: getattr(self.fault, each.name) for each in fields(self.fault)}
        told = {key: value for key, value in values.items() if value and not key.endswith("_ms")}
        if "node" in told:  # which in a log says whose line it is
            told["nodes"] = (told.pop("node"),)
        for key in ("delay_ms", "jitter_ms"):
            if values.get(key):
                told[key] = values[key]
        return {"fault": self.id, "kind": self.fault.kind, **told}


def lasts(fault: Fault, at_ms: int) -> bool:
    """Whether a fault is on at a time since the start."""
    return fault.start_ms <= at_ms and (not fault.end_ms or at_ms < fault.end_ms)


def combine(faults: Iterable[Fault], source: str, target: str) -> Conditions:
    """How the way from `source` to `target` is while all of these are on."""
    conditions = CLEAR
    for fault in faults:
        if isinstance(fault, Partition) and fault.cuts(source, target):
            conditions |= Conditions(silence=Silence.REFUSE if fault.refuse else Silence.STALL)
        elif isinstance(fault, LinkFault) and fault.covers(source, target):
            conditions |= fault.conditions
    return conditions


def list_nodes(fault: Fault) -> Iterator[str]:
    match fault:
        case Partition():
            yield from (node for group in fault.groups for node in group)
        case LinkFault():
            yield from (*fault.sources, *fault.targets)
        case _:
            yield fault.node


def verify_fault(named: Named) -> None:
    """Raises LocalError for a fault that cannot be."""
    fault = named.fault
    for value in (fault.start_ms, fault.end_ms):
        require_range(f"a time of {named.id}", value, TIME_MS_MAX)
    if 0 != fault.end_ms <= fault.start_ms:
        raise LocalError(f"{named.id} ends after it starts, or never (0), not {fault.start_ms} to {fault.end_ms} ms")
    if len(list(list_nodes(fault))) > NODES_MAX:
        raise LocalError(f"{named.id} names more than {NODES_MAX} nodes")
    if isinstance(fault, Partition):
        nodes = list(list_nodes(fault))
        if len(nodes) != len(set(nodes)):
            raise LocalError(f"{named.id} has a node in two groups")
    if isinstance(fault, LinkFault):
        for name, value_max in (("delay_ms", DELAY_MS_MAX), ("jitter_ms", DELAY_MS_MAX), ("loss_bp", BP)):
            require_range(f"{name} of {named.id}", getattr(fault, name), value_max)
        require_range(f"bytes_per_s of {named.id}", fault.bytes_per_s, BYTES_PER_S_MAX)
        if fault.silence not in SILENCES:
            raise LocalError(f"silence of {named.id} is empty, stall or blackhole, not {fault.silence!r}")


def require_range(name: str, value: int, value_max: int) -> None:
    if type(value) is not int or not 0 <= value <= value_max:
        raise LocalError(f"{name} is a whole number from 0 to {value_max}, not {value!r}")
