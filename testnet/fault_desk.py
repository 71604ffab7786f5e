"""Play faults on the processes of a network: begin and end each at its time, and write both into the event log.

Part of the launcher, which alone can start a node again so that it dies with the network. Link faults are orders to the
nodes that send, all of them with every request, so that a node that was down gets them as soon as it answers; kills and
pauses are signals. Synchronous: whoever runs the launcher calls `tick` about ten times a second.
"""

import heapq
import json
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from protocol.errors import LocalError
from roles.control import NodeUnreachable, RequestRefused, ask_node
from roles.eventlog import EventLog
from testnet.fault_kinds import FAULT_ENDED, FAULT_STARTED, NETWORK_LOG, Crash, Fault, Named, Pause
from testnet.fault_ways import Place, compute_orders, list_real_faults
from testnet.faults import FaultPlan
from testnet.launch import Launcher, Program, is_alive, read_status
from testnet.network_file import NodeEntry, is_locked

ASK_S = 1.0  # for a node to take its orders
ASK_AGAIN_S = 0.3  # after it did not
DYING_S = 0.05  # between two looks at a killed process that has not let go of its directory yet
FAULTS_MAX = 1_024  # of one run, planned, on and over
START, END = "start", "end"
PLAN = "plan"
NO_ORDERS = "[]"


@dataclass
class Running:
    """A fault on its way: planned, on or over. `due_s` is when it begins, of time.monotonic(); `by` says who asked."""

    named: Named
    set_id: str
    due_s: float
    until_s: float | None  # when it ends by itself
    by: str
    state: str = "planned"
    pid: int = 0  # of the process that was killed
    started_ms: int = 0
    ended_ms: int = 0

    def describe(self) -> dict[str, Any]:
        left_s = None if self.until_s is None else round(max(0.0, self.until_s - time.monotonic()), 1)
        times = {"state": self.state, "started_ms": self.started_ms, "ended_ms": self.ended_ms}
        return {**self.named.describe(), "set": self.set_id, **times, "left_s": left_s if self.state == "on" else None}


@dataclass
class FaultDesk:
    """All faults of one running network."""

    directory: Path
    launcher: Launcher
    programs: Mapping[str, Program]
    faults: dict[str, Running] = field(default_factory=dict)
    refusals: dict[str, str] = field(default_factory=dict)  # what nodes said that take no orders
    _due: list[tuple[float, int, str, str]] = field(default_factory=list)
    _sets: int = 0
    _order: int = 0
    _look_at_s: float = 0.0
    _sent: dict[str, tuple[int, str]] = field(default_factory=dict)  # node -> (pid, orders) as it last confirmed
    _ask_at_s: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._log = EventLog(self.directory, NETWORK_LOG)
        self._places = [
            Place(node.name, node.node, node.addresses[0].split("/")[2]) for node in self.launcher.network.nodes
        ]

    def add(self, plan: FaultPlan, set_id: str = "", by: str = "") -> list[str]:
        """Take in a plan whose times count from now; the ids of its faults. Raises LocalError, and takes none of it.

        Those of the PLAN a network was started with are the plan's own, as in the simulator; others begin with a set's.
        """
        known = {place.name for place in self._places}
        unknown = [node for node in plan.list_nodes() if node not in known]
        if unknown:
            raise LocalError(f"there is no node {unknown[0]!r} in this network; there are {', '.join(sorted(known))}")
        found = list_real_faults(plan)
        if len(self.faults) + len(found) > FAULTS_MAX:
            raise LocalError(f"a network has at most {FAULTS_MAX} faults in its life; this would be one too many")
        is_plan = set_id == PLAN
        if not set_id:
            self._sets += 1
            set_id = f"f{self._sets}"
        now_s, ids = time.monotonic(), []
        for named in found:
            told = named if is_plan else Named(f"{set_id}.{named.id}", named.fault)
            until_s = now_s + named.end_ms / 1_000 if named.end_ms else None
            self.faults[told.id] = Running(told, set_id, now_s + named.start_ms / 1_000, until_s, by)
            self._schedule(self.faults[told.id].due_s, START, told.id)
            ids.append(told.id)
        self.tick()
        return ids

    def heal(self, which: str = "") -> list[str]:
        """End faults, on or only planned: one, a set, or those of one who asked; all unless said. The ids of those."""
        chosen = [
            fault
            for fault in self.faults.values()
            if fault.state in ("planned", "on") and which in ("", fault.set_id, fault.named.id, fault.by)
        ]
        for fault in chosen:
            if fault.state == "on":
                self._end(fault)
            else:
                fault.state = "healed"
        self._push_orders()
        return [fault.named.id for fault in chosen]

    def list_faults(self) -> list[dict[str, Any]]:
        """Everything about every fault, in the order in which they were asked for."""
        return [fault.describe() for fault in self.faults.values()]

    def count_on(self) -> int:
        """How many faults are on."""
        return sum(fault.state == "on" for fault in self.faults.values())

    @property
    def is_quiet(self) -> bool:
        """Whether nothing that was planned is still to begin or to end by itself."""
        return all(
            fault.state in ("over", "healed") or (fault.state == "on" and fault.until_s is None)
            for fault in self.faults.values()
        )

    def tick(self) -> None:
        """Do what is due."""
        now_s = time.monotonic()
        while self._due and self._due[0][0] <= now_s:
            _, _, what, fault_id = heapq.heappop(self._due)
            fault = self.faults[fault_id]
            if what == START and fault.state == "planned":
                self._begin(fault)
            elif what == END and fault.state == "on":
                self._end(fault)
        if now_s >= self._look_at_s:  # a node may be back that knows of nothing
            self._look_at_s = now_s + ASK_AGAIN_S
            self._push_orders()
            if self.launcher.pids != {node.name: node.pid for node in self.launcher.network.nodes}:
                self.launcher.record_pids()

    def close(self) -> None:
        """The network is about to end: whatever is on is over, so that paused nodes hear that they are to stop."""
        for fault in self.faults.values():
            if fault.state == "on":
                self._end(fault, may_restart=False)
        self._log.close()

    # One fault

    def _begin(self, fault: Running) -> None:
        named = fault.named
        if isinstance(named.fault, Crash):
            fault.pid = self._signal(named.fault.node, signal.SIGKILL)
        elif isinstance(named.fault, Pause):
            self._signal(named.fault.node, signal.SIGSTOP)
        fault.state, fault.started_ms = "on", _now_ms()
        self._push_orders()
        self._tell(FAULT_STARTED, fault.started_ms, named)
        if fault.until_s is not None:
            self._schedule(fault.until_s, END, named.id)

    def _end(self, fault: Running, may_restart: bool = True) -> None:
        named = fault.named
        if (
            isinstance(named.fault, Crash)
            and may_restart
            and fault.pid
            and self.find_pid(named.fault.node) == fault.pid
        ):
            self._schedule(time.monotonic() + DYING_S, END, named.id)
            return
        fault.state = "over"
        if isinstance(named.fault, Pause) and not self._is_on(Pause, named.fault.node):
            self._signal(named.fault.node, signal.SIGCONT)
        elif isinstance(named.fault, Crash) and may_restart and not self._is_on(Crash, named.fault.node):
            self._restart(named.fault.node)
        fault.ended_ms = _now_ms()
        self._push_orders()
        self._tell(FAULT_ENDED, fault.ended_ms, named)

    def _is_on(self, kind: type[Fault], node: str) -> bool:
        return any(
            fault.state == "on"
            and isinstance(fault.named.fault, kind)
            and getattr(fault.named.fault, "node", "") == node
            for fault in self.faults.values()
        )

    def _tell(self, name: str, time_ms: int, named: Named) -> None:
        self._log.write(time_ms, name, named.describe())
        self._log.flush()

    def _schedule(self, at_s: float, what: str, fault_id: str) -> None:
        self._order += 1
        heapq.heappush(self._due, (at_s, self._order, what, fault_id))

    # Processes

    def find_pid(self, name: str) -> int:
        """The process that runs a node now, whoever started it; 0 when none does."""
        node = self._get_entry(name)
        lock = self.directory / node.directory / "lock"
        if not lock.is_file() or not is_locked(lock):
            return 0
        said = read_status(self.directory, node).get("pid")
        pid = int(said) if isinstance(said, int) and is_alive(said) else self.launcher.pids.get(name, 0)
        return pid if is_alive(pid) else 0

    def _signal(self, name: str, number: int) -> int:
        """Signal a node and the workers that compute for it, if it runs; the process of the node, 0 for none."""
        pid = self.find_pid(name)
        if not pid:
            return 0
        try:
            if os.getpgid(pid) == pid:
                os.killpg(pid, number)
            else:
                os.kill(pid, number)
        except ProcessLookupError:
            return 0  # it died by itself in between
        return pid

    def _restart(self, name: str) -> None:
        if not self.find_pid(name):
            self.launcher.start([self.programs[name]])

    # Links

    def _push_orders(self) -> None:
        """Tell every node that does not know it what it has to do to its links."""
        on = [fault.named for fault in self.faults.values() if fault.state == "on"]
        if not on and not self._sent:
            return
        for place in self._places:
            orders = compute_orders(place.name, on, self._places)
            text = json.dumps([asdict(order) for order in orders])
            self._push_to(place.name, text)

    def _push_to(self, name: str, text: str) -> None:
        sent_pid, sent = self._sent.get(name, (0, NO_ORDERS))
        if text == sent and (text == NO_ORDERS or is_alive(sent_pid)):
            return
        pid = self.find_pid(name)
        if not pid or self._is_on(Pause, name) or time.monotonic() < self._ask_at_s.get(name, 0.0):
            return
        request = {"command": "faults.put", "seed": self.launcher.network.seed, "orders": json.loads(text)}
        try:
            ask_node(self.directory / self._get_entry(name).directory, request, ASK_S)
        except RequestRefused as error:
            self.refusals[name] = error.message
        except NodeUnreachable:
            self._ask_at_s[name] = time.monotonic() + ASK_AGAIN_S
            return
        self._sent[name] = pid, text

    def _get_entry(self, name: str) -> NodeEntry:
        entry = self.launcher.network.get_node(name)
        assert entry is not None
        return entry


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
