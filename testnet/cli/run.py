"""One run of `testnet up`: what was asked for, and what is to be seen of it."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from testnet.cli.output import CommandError, format_count
from testnet.cli.progress import Progress
from testnet.cli.referendum import Referendum
from testnet.cli.schedule import Schedule
from testnet.cli.storefront import Storefront
from testnet.events import EventFollower, Tally
from testnet.faults import FaultPlan
from testnet.launch import LIVE_STATES, Launcher, read_status
from testnet.network_file import NetworkFile

if TYPE_CHECKING:
    import numpy as np

    from protocol.ledger.model_records import ModelRecord
    from testnet.fault_desk import FaultDesk
    from testnet.found import ModelFile
    from testnet.load_plan import RowsDone

STILL_S = 2.0  # without news, before the nodes' disks are asked what is under way
QUIET_S = 75.0  # after the last request ended: a transaction that was lost is signed anew when its minute is over
SETTLE_TIMEOUT_S = 60.0  # without any news at all, when no duration is given
PEERS_MIN = 8  # a node of a large network need not know all others to be connected
LOG_TAIL_LINES = 6
REPORTS_APART_MS = 3_000  # of an oracle, before a run can show that its values change: some steps of what it reads


@dataclass(frozen=True)
class Pace:
    """How each client asks: how many at a time, in which mode, how long each may take, how many a second (0: any)."""

    in_flight: int
    mode: str
    timeout_ms: int
    per_s: float = 0


@dataclass(frozen=True)
class Load:
    """What the clients send: rows of samples to one model. `labels` are the right answers, where known."""

    model: "ModelRecord"
    inputs: "np.ndarray[Any, Any]"
    labels: list[str] | None
    pace: Pace


@dataclass(frozen=True)
class Order:
    """What `testnet up` was asked for."""

    directory: Path
    seed: int
    roles: Mapping[str, int]
    models: tuple["ModelFile", ...]
    load: Load | None
    liars: int
    accounts: int
    feed: tuple[str, str] | None
    spawn: bool
    duration_s: float | None
    faults: FaultPlan = field(default_factory=FaultPlan)
    scheduled: "ModelRecord | None" = None  # the model of a workflow over the replayed series
    lease: bool = False  # whether the samples are leased as well
    proposes: bool = False  # whether a change is proposed and voted on
    sells: bool = False  # whether an app is served, and a pass to it bought and used up
    gateway: tuple[str, int] | None = None  # where one is to listen


@dataclass
class Run:
    """A network on its way."""

    order: Order
    network: NetworkFile
    launcher: Launcher
    follower: EventFollower
    desk: "FaultDesk | None" = None
    progress: Progress = field(default_factory=Progress)
    moved: tuple[int, ...] = ()  # what had happened by `moved_s`
    moved_s: float = 0.0
    looked_s: float = 0.0  # when the disks were asked last
    rows_done: "RowsDone | None" = None
    schedule: Schedule | None = None
    referendum: Referendum | None = None
    storefront: Storefront | None = None

    @property
    def tally(self) -> Tally:
        return self.follower.tally

    def is_ready(self) -> bool:
        """Every node serves and is connected."""
        self._raise_for_the_dead()
        return not self.find_waiting()

    def find_waiting(self) -> list[str]:
        """Names of the nodes that do not serve yet."""
        return [node.name for node in self.network.nodes if not self._is_up(node.name)]

    def is_settled(self) -> bool:
        """Every row is over, every result released settled, every lie that was told proven, the feed seen to move.

        And if the samples are leased, an audit answered; if a change is proposed, decided on and carried out; if an app
        is served, its pass used up.
        """
        load = self.order.load
        if load is None:
            return False
        tally = self.tally
        is_done = self._count_rows() >= len(load.inputs) and len(tally.proven) >= len(tally.lies)
        if not is_done or (self.desk is not None and not self.desk.is_quiet):
            return False
        if self.order.roles.get("oracle") and not self._has_feed_moved():
            return False
        if self.schedule is not None and not tally.runs:
            return False
        if self.order.lease and not tally.audited:
            return False
        if self.referendum is not None and not self.referendum.phase:
            return False
        if self.storefront is not None and not self.storefront.is_over:
            return False
        return not tally.unsettled or self._is_nothing_under_way()

    def _has_feed_moved(self) -> bool:
        """The first report may be late, and the next one come with it."""
        reported_ms = self.tally.reported_ms
        return bool(reported_ms) and reported_ms[-1] - reported_ms[0] >= REPORTS_APART_MS

    def is_over(self) -> bool:
        """Settled; or all rows are over and nothing has moved for QUIET_S.

        Without a duration, also when all stands still.
        """
        load = self.order.load
        if load is None or self.is_settled():
            return load is not None
        tally, now_s = self.tally, time.monotonic()
        moved = (len(tally.first_sent_ms), tally.ended, len(tally.settled_ms), len(tally.proven))
        if moved != self.moved:
            self.moved, self.moved_s = moved, now_s
        if self.desk is not None and not self.desk.is_quiet:
            return False
        if self._count_rows() >= len(load.inputs) and now_s > self.moved_s + QUIET_S:
            return True
        return self.order.duration_s is None and now_s > self.moved_s + SETTLE_TIMEOUT_S

    def _count_rows(self) -> int:
        assert self.rows_done is not None
        return self.rows_done.count()

    def _is_nothing_under_way(self) -> bool:
        """A killed node loses the last lines of its log, and nothing that is on its disk: that says what is open."""
        from testnet.papers import count_under_way, find_places

        now_s = time.monotonic()
        if now_s < max(self.moved_s, self.looked_s) + STILL_S:
            return False
        self.looked_s = now_s
        return not any(count_under_way(place) for place in find_places(self.order.directory))

    def show_waiting(self) -> None:
        waiting = self.find_waiting()
        nodes = len(self.network.nodes)
        up = nodes - len(waiting)
        self.progress.show(f"starting: {up} of {nodes} nodes serve; waiting for {', '.join(waiting[:6])}")

    def show_load(self) -> None:
        """One line of what has happened so far."""
        tally = self.follower.read()
        exits = self.launcher.exits
        faults = 0
        if self.schedule is not None:
            self.schedule.tick()
        if self.referendum is not None:
            self.referendum.tick()
        if self.storefront is not None:
            self.storefront.tick()
        if self.desk is not None:
            self.desk.tick()
            faults = self.desk.count_on()
        text = f"height {tally.height}"
        if self.order.load is not None:
            wanted = len(self.order.load.inputs)
            done = "attested" if self.order.load.pace.mode == "individual" else "answered"
            text = f"{len(tally.released_ms)} of {wanted} {done}, {len(tally.settled_ms)} settled, {text}"
        if tally.failed:
            text += f", {len(tally.failed)} failed"
        if tally.lies:
            text += f", {len(tally.lies)} lies told, {len(tally.proven)} proven"
        if faults:
            text += f", {format_count(faults, 'fault')} on"
        self.progress.show(text + (f", killed or ended: {', '.join(exits)}" if exits else ""))

    def _is_up(self, name: str) -> bool:
        node = self.network.get_node(name)
        assert node is not None
        status = read_status(self.order.directory, node)
        wanted = min(PEERS_MIN, len(self.network.nodes) - 1)
        is_live = status.get("state") in LIVE_STATES and status.get("pid") == self.launcher.pids.get(name)
        return is_live and len(status.get("peers", ())) >= wanted

    def _raise_for_the_dead(self) -> None:
        for name, code in self.launcher.exits.items():
            log = self.order.directory / "logs" / f"{name}.log"
            tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_TAIL_LINES:]
            message = f"{name} ended with {code} before the network was ready: {find_reason(tail)}"
            raise CommandError("node_died", message, f"read {log}", log=tail, seed=self.order.seed)


def find_reason(tail: list[str]) -> str:
    """Why a node ended, from the last lines of its log: its own words, or the last line of its traceback.

    >>> find_reason(['{"event": "node.failed", "error": "no key", "hint": "make one"}'])
    'no key'
    """
    if not tail:
        return "it said nothing"
    try:
        fields = json.loads(tail[-1])
    except ValueError:
        return tail[-1]
    text = str(fields.get("error") or fields.get("exception") or tail[-1]) if isinstance(fields, dict) else tail[-1]
    return text.strip().splitlines()[-1]
