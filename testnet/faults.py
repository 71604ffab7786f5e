"""What goes wrong on purpose: one plan for the simulator, for real processes and for Hypothesis.

A plan is whole numbers and node names only, so that it travels in a replay token and shrinks. Times are milliseconds
since the network started; of real processes, since it was ready. `testnet.fault_kinds` says what each fault is.
"""

import json
from dataclasses import asdict, astuple, dataclass, fields
from functools import cached_property
from typing import Any

from p2p.delay_line import DELAY_MS_MAX, Conditions
from protocol.errors import LocalError
from protocol.types import BP
from testnet.fault_kinds import (
    Crash,
    Fault,
    LinkFault,
    Named,
    Partition,
    Pause,
    combine,
    lasts,
    list_nodes,
    require_range,
    verify_fault,
)

PARTITIONS_MAX = 64
LINKS_MAX = 256
PAUSES_MAX = 256
CRASHES_MAX = 256
TEXT_BYTES_MAX = 256 * 1024

# The class that runs in place of an honest role, by role.
LIARS = {"inference": "testnet.liars:LyingInference"}


@dataclass(frozen=True)
class FaultPlan:
    """Faults of a whole run. Shares are basis points, per message and way; `latency_ms` is one way.

    Loss and duplication strike gossip's messages; a stream resends what is lost, so there loss is delay. Jitter
    reorders what takes several paths.
    On real processes `loss_bp`, `latency_ms` and `jitter_ms` hold for every way for the whole run, where they differ
    from the defaults, which stand for a loopback's own; nothing is ever duplicated, since connections are TCP.
    """

    loss_bp: int = 0
    duplicate_bp: int = 0
    latency_ms: int = 2
    jitter_ms: int = 3
    partitions: tuple[Partition, ...] = ()
    crashes: tuple[Crash, ...] = ()
    links: tuple[LinkFault, ...] = ()
    pauses: tuple[Pause, ...] = ()

    def __post_init__(self) -> None:
        for name, value_max in (("loss_bp", BP), ("duplicate_bp", BP)):
            require_range(name, getattr(self, name), value_max)
        for name in ("latency_ms", "jitter_ms"):
            require_range(name, getattr(self, name), DELAY_MS_MAX)
        for name, most in _MOST.items():
            if len(getattr(self, name)) > most:
                raise LocalError(f"a plan holds at most {most} {name}, not {len(getattr(self, name))}")
        for named in self.list_faults():
            verify_fault(named)

    def list_faults(self) -> tuple[Named, ...]:
        """Every fault with a beginning and its id, in the order in which they begin."""
        return self._named

    @cached_property
    def _named(self) -> tuple[Named, ...]:
        named = [
            Named(f"{kind}-{index}", fault)
            for kind, faults in self._get_kinds().items()
            for index, fault in enumerate(faults)
        ]
        return tuple(sorted(named, key=lambda each: (each.start_ms, each.id)))

    def _get_kinds(self) -> dict[str, tuple[Fault, ...]]:
        return {"partition": self.partitions, "link": self.links, "pause": self.pauses, "crash": self.crashes}

    def list_nodes(self) -> tuple[str, ...]:
        """Every node a fault names, sorted."""
        return tuple(sorted({node for named in self.list_faults() for node in list_nodes(named.fault)}))

    def separates(self, one: str, other: str, at_ms: int) -> bool:
        """Whether a partition cuts at least one way between two nodes at a time since the start."""
        return any(lasts(cut, at_ms) and cut.separates(one, other) for cut in self.partitions)

    def get_conditions(self, source: str, target: str, at_ms: int) -> Conditions:
        """How the way from `source` to `target` is at a time since the start, all its faults taken together.

        The plan's own latency, jitter and loss are not in it. Where `silence` is not NONE nothing comes through: dials
        in either direction get no answer (REFUSE: at once the answer no), since a handshake needs both ways. STALL
        keeps what was sent and hands it over at its end, later by delay and bandwidth; BLACKHOLE loses it, so a
        connection that lost something breaks when the blackhole ends; REFUSE breaks every connection when it begins.
        """
        return combine((each.fault for each in self.list_faults() if lasts(each.fault, at_ms)), source, target)

    @property
    def quiet_ms(self) -> int:
        """The time since the start after which no fault begins or ends."""
        return max((time for named in self.list_faults() for time in (named.start_ms, named.end_ms)), default=0)

    def to_text(self) -> str:
        """Compact JSON that leaves out what is as usual. Faults are lists of their fields, in order.

        >>> FaultPlan(loss_bp=500, crashes=(Crash("inference-0", 1_000, 4_000),)).to_text()
        '{"crashes":[["inference-0",1000,4000]],"loss_bp":500}'
        """
        usual = asdict(FaultPlan())
        document: dict[str, Any] = {key: value for key, value in asdict(self).items() if value != usual[key]}
        for name in document.keys() & _READERS.keys():
            document[name] = [_strip(fault) for fault in getattr(self, name)]
        return json.dumps(document, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_text(cls, text: str) -> "FaultPlan":
        """Read a plan: JSON as `to_text` writes it, or with each fault as an object of its fields, as people do.

        Raises LocalError with what is wrong.

        >>> FaultPlan.from_text('{"pauses": [{"node": "a", "start_ms": 5, "end_ms": 9}]}').pauses
        (Pause(node='a', start_ms=5, end_ms=9),)
        """
        if len(text) > TEXT_BYTES_MAX:
            raise LocalError(f"a fault plan has at most {TEXT_BYTES_MAX} bytes, not {len(text)}")
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise LocalError(f"a fault plan is JSON: {error}") from error
        return cls.from_document(document)

    @classmethod
    def from_document(cls, document: object) -> "FaultPlan":
        known = {each.name for each in fields(cls)}
        if not isinstance(document, dict) or not document.keys() <= known:
            raise LocalError(f"a fault plan is an object with any of {', '.join(sorted(known))}")
        values: dict[str, Any] = dict(document)
        for name, kind in _READERS.items():
            values[name] = tuple(_read_fault(name, kind, each) for each in _read_list(name, document.get(name, ())))
        return cls(**values)


_READERS: dict[str, type[Fault]] = {
    "partitions": Partition,
    "crashes": Crash,
    "links": LinkFault,
    "pauses": Pause,
}
_MOST = {"partitions": PARTITIONS_MAX, "crashes": CRASHES_MAX, "links": LINKS_MAX, "pauses": PAUSES_MAX}


def _strip(fault: Fault) -> list[Any]:
    """The fields of a fault in order, without the last ones that are as usual."""
    values = list(astuple(fault))
    for each in reversed(fields(fault)):
        if values[-1] != each.default:
            break
        values.pop()
    return values


def _read_list(name: str, value: Any) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise LocalError(f"{name} of a fault plan are a list, not {value!r:.40}")
    return list(value)


def _read_fault(name: str, kind: type[Fault], value: Any) -> Fault:
    """One fault, from a list of its fields in order or an object of them. Raises LocalError."""
    known = [each.name for each in fields(kind)]
    if isinstance(value, list | tuple):
        value = dict(zip(known, value, strict=False)) if len(value) <= len(known) else {"too": "many"}
    if not isinstance(value, dict) or not value.keys() <= set(known):
        raise LocalError(f"each of {name} is an object with any of {', '.join(known)}, or a list of them in order")
    try:
        return kind(**{key: _read_field(kind, key, inner) for key, inner in value.items()})
    except TypeError as error:
        raise LocalError(f"one of {name} is not as it should be: {error}") from error


def _read_field(kind: type[Fault], key: str, value: Any) -> Any:
    """A field's value, of the field's type. Raises TypeError."""
    if key == "groups":
        return tuple(_read_names(key, group) for group in _read_list(key, value))
    if key in ("sources", "targets"):
        return _read_names(key, value)
    if type(value) is not kind.__dataclass_fields__[key].type:
        raise TypeError(f"{key} is {value!r:.40}, which is {type(value).__name__}")
    return value


def _read_names(key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(node, str) for node in value):
        raise TypeError(f"{key} holds lists of node names, not {value!r:.40}")
    return tuple(value)


__all__ = ["LIARS", "Crash", "FaultPlan", "LinkFault", "Partition", "Pause"]
