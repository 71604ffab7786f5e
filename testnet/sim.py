"""A whole network in one process and in virtual time: the same roles as on real sockets, replayed exactly by a seed.

network = simulate(seed=7, liars=1, faults=FaultPlan(loss_bp=500))
asked = network.request("digits", input=3)
network.run_until(lambda: asked.is_done)
assert network.one_state_root()
"""

import json
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from protocol.errors import LocalError
from protocol.jobs import Mode
from protocol.keys import remember_good
from protocol.ledger.genesis import ModelRecord, build_state
from protocol.ledger.state import State, compute_supply
from protocol.tensor import Tensor
from roles import core_effects as ce
from roles.attempts import Ask, Outcome, Tokens
from roles.eventlog import format_event
from testnet.fault_kinds import FAULT_ENDED, FAULT_STARTED, NETWORK_LOG, Named
from testnet.faults import FaultPlan
from testnet.kernel import Kernel
from testnet.sim_build import Cast, build_nodes
from testnet.sim_inputs import compute_label, count_heldout, get_engine, get_heldout_inputs
from testnet.sim_links import Fabric
from testnet.sim_node import Hooks, SimNode
from testnet.sim_token import Replay, Step, format_token

DEFAULT_ROLES: Mapping[str, int] = {
    "validator": 1,
    "inference": 3,
    "verifier": 2,
    "storage": 1,
    "oracle": 1,
    "client": 1,
}
FEE_MAX_GRAINS = 100_000_000
LIMIT_MS = 120_000
EVENTS_MAX = 2_000_000  # lines of all event logs of one run
SIGNATURES_REMEMBERED = 4_096  # some megabytes; a message is verified by its nodes within a virtual second

_latest: "weakref.ref[Network] | None" = None


@dataclass
class Asked:
    """One inference asked for. `is_lost` when its client died before it could say how it ended."""

    client: str
    token: str
    model: ModelRecord
    inputs: tuple[Tensor, ...]
    outcome: Outcome | None = None
    is_lost: bool = False
    told: list[int] = field(default_factory=list)  # tokens streamed so far

    @property
    def is_done(self) -> bool:
        return self.outcome is not None or self.is_lost

    @property
    def is_attested(self) -> bool:
        return self.outcome is not None and self.outcome.is_attested

    @property
    def is_answered(self) -> bool:
        return self.outcome is not None and self.outcome.is_answered

    @property
    def label(self) -> str | None:
        """What the answer says its first row shows; None without one."""
        if self.outcome is None or not self.outcome.is_answered:
            return None
        return compute_label(self.model, self.outcome.outputs)

    @property
    def expected(self) -> str:
        """What the model itself says the first row shows, run here and now."""
        return compute_label(self.model, self.compute_expected())

    def compute_expected(self) -> tuple[Tensor, ...]:
        """What the model itself answers, run here and now."""
        return get_engine().compute(self.model.digest, self.inputs)[0]


def simulate(
    seed: int,
    roles: Mapping[str, int] | None = None,
    liars: int = 0,
    faults: FaultPlan | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> "Network":
    """A network at its first instant: its nodes have booted, faults are planned, no time has passed.

    `roles` counts nodes per role; a key may be `package.module:Class` for a role of your own. The first `liars`
    inference nodes lie (`testnet.liars`). `options` are handed to roles by role or by node, as `options` in
    `node.json`; `class` in them has a node be of another class, as package.module:Class (`testnet.cheats` has many).
    `models` of "network" names those that are on the ledger, of the ones that ship, `params` are parameters of the
    ledger that differ from the defaults.
    Raises ConfigError for roles that cannot be loaded, ValueError for counts out of bounds.
    """
    global _latest
    remember_good(SIGNATURES_REMEMBERED)
    plan = FaultPlan() if faults is None else faults
    network = Network(seed, DEFAULT_ROLES if roles is None else roles, liars, plan, options or {})
    _latest = weakref.ref(network)
    return network


def get_latest() -> "Network | None":
    """The network simulated last, while anyone holds it: the one a failed test was about."""
    return None if _latest is None else _latest()


class Network:
    """A simulated network. Made by `simulate`."""

    def __init__(
        self,
        seed: int,
        roles: Mapping[str, int],
        liars: int,
        faults: FaultPlan,
        options: Mapping[str, Mapping[str, Any]],
    ) -> None:
        self.events: list[Mapping[str, Any]] = []
        self.deliveries: list[tuple[str, Any]] = []  # (node, outcome) of every `Deliver`, in order
        self.faults = faults
        self._set_up = Replay(seed, dict(roles), liars, faults, {key: dict(value) for key, value in options.items()})
        self._steps: list[Step] = []
        self._asked: dict[tuple[str, str], Asked] = {}
        self.kernel = Kernel(seed)
        self._rows = self.kernel.random("rows")
        self._tokens = 0
        fabric = Fabric(self.kernel, faults)
        hooks = Hooks(self._on_log, self._on_deliver, self._lose_asked)
        self.genesis, self.nodes = build_nodes(seed, Cast(roles, liars, options), self.kernel, fabric, hooks)
        self._start_state = build_state(self.genesis)
        self._models = {record.name: record for record in self.genesis.models}
        self._start(faults)

    # What users call

    def request(
        self,
        model: str | bytes = "digits",
        input: int | tuple[Tensor, ...] | None = None,
        client: str = "client-0",
        is_direct: bool = False,
        timeout_ms: int = 30_000,
        fee_max: int = FEE_MAX_GRAINS,
        mode: str = Mode.INDIVIDUAL,
        streams: bool = False,
        ends_when_cut: bool = False,
    ) -> Asked:
        """Have a client ask for one inference, now. Watch what is returned with `run_until`.

        `model` is a name or a digest; `input` the number of a held-out digit, the tensors themselves, or nothing for a
        digit drawn from the seed; `mode` one of `protocol.jobs.Mode`; `streams` and `ends_when_cut` as in `Ask`.
        Raises LocalError for a model, digit, client or
        mode that does not exist.
        """
        if mode not in tuple(Mode):
            raise LocalError(f"there is no mode {mode!r}; there are {', '.join(Mode)}")
        record = self._find_model(model)
        row = self._rows.randrange(count_heldout()) if input is None else input
        if isinstance(row, int) and not 0 <= row < count_heldout():
            raise LocalError(f"there are {count_heldout()} held-out digits, none is number {row}")
        inputs = get_heldout_inputs(row, record) if isinstance(row, int) else row
        node = self._get_node(client)
        self._tokens += 1
        asked = Asked(client, f"asked-{self._tokens}", record, inputs)
        ask = Ask(
            asked.token,
            record.digest,
            inputs,
            fee_max,
            timeout_ms,
            is_direct=is_direct,
            mode=Mode(mode),
            streams=streams,
            ends_when_cut=ends_when_cut,
        )
        how = (is_direct, timeout_ms, fee_max, str(mode), streams, ends_when_cut)
        self._note("request", record.name, row, client, *how)
        if not node.is_up:
            asked.is_lost = True
            return asked
        self._asked[client, asked.token] = asked
        node.command(ask)
        return asked

    def run_until(self, until: int | Callable[[], bool], limit_ms: int = LIMIT_MS) -> bool:
        """Run to a virtual time in ms since the start, or until a condition holds; False when it did not come true.

        A condition is looked at after every event, and given up `limit_ms` virtual milliseconds from now.
        """
        if callable(until):
            return self.kernel.run_until(self.kernel.now_ms + limit_ms, until)
        return self.kernel.run_until(self.kernel.start_ms + until)

    def run_for(self, duration_ms: int) -> None:
        """Let so much virtual time pass."""
        self.kernel.run_until(self.kernel.now_ms + duration_ms)

    def crash(self, name: str) -> None:
        """Kill a node as by `kill -9`, between two of its effects."""
        self._note("crash", name)
        self._crash(name)

    def start(self, name: str) -> None:
        """Start a node that is down, on what its disk holds."""
        self._note("start", name)
        self._restart(name)

    def stop(self, name: str) -> None:
        """Have a node go down in good order."""
        self._note("stop", name)
        self._get_node(name).stop()

    def command(self, name: str, command: Any) -> None:
        """Hand a command to the role of a node; what it delivers stands in `deliveries`. Not part of a replay token."""
        self._get_node(name).command(command)

    def supply(self) -> int:
        """Every grain of the newest ledger, wherever it is, in grains. It never changes."""
        return compute_supply(self.ledger)

    def one_state_root(self) -> bool:
        """No two nodes, up or down, have ever computed different state roots for one height."""
        roots: dict[int, bytes] = {}
        for node in self.nodes.values():
            for height, root in node.roots.items():
                if roots.setdefault(height, root) != root:
                    return False
        return True

    @property
    def ledger(self) -> State:
        """The newest state any node has."""
        states = [state for node in self.nodes.values() if (state := node.ledger) is not None]
        return max(states, key=lambda state: state.height, default=self._start_state)

    @property
    def elapsed_ms(self) -> int:
        """Virtual milliseconds since the start."""
        return self.kernel.now_ms - self.kernel.start_ms

    @property
    def trace(self) -> str:
        """Hex sha256 over every event delivered so far: equal for equal runs."""
        return self.kernel.trace

    @property
    def balances(self) -> dict[str, int]:
        """Free grains of each node's account, by node name."""
        ledger = self.ledger
        return {name: ledger.get_balance(node.keys.account.public) for name, node in self.nodes.items()}

    @property
    def bonds(self) -> dict[str, int]:
        """Bonded grains of each node's account, by node name; 0 without a record."""
        records = self.ledger.nodes
        accounts = {name: node.keys.account.public for name, node in self.nodes.items()}
        return {name: records[key].bond if key in records else 0 for name, key in accounts.items()}

    @property
    def receipts(self) -> dict[str, bytes]:
        """Receipt files the clients have kept, by request id in hex."""
        kept = (node.disk.kv.get("receipt", {}) for node in self.nodes.values())
        return {key.hex(): value for receipts in kept for key, value in receipts.items()}

    @property
    def token(self) -> str:
        """The replay token of the run so far, for `rolemesh sim --replay`."""
        run = replace(
            self._set_up,
            steps=tuple(self._steps),
            elapsed_ms=self.elapsed_ms,
            events_run=self.kernel.events_run,
            trace=self.trace,
        )
        return format_token(run)

    def get_events(self, name: str) -> list[Mapping[str, Any]]:
        """The lines of all event logs with this name, in order."""
        return [event for event in self.events if event["name"] == name]

    def find_violations(self) -> list[str]:
        """What must hold at any instant of any run and does not, in words. Empty when all is well."""
        found = []
        handed_out = compute_supply(self._start_state)
        for name, node in self.nodes.items():
            supply = compute_supply(node.ledger or self._start_state)
            if supply != handed_out:
                found.append(f"{name} counts {supply} grains, genesis handed out {handed_out}")
        if not self.one_state_root():
            found.append("two nodes have different state roots for one height")
        return found

    def __repr__(self) -> str:
        return f"<Network seed={self._set_up.seed} at {self.elapsed_ms} ms; rolemesh sim --replay {self.token}>"

    # How it is built and run

    def _start(self, faults: FaultPlan) -> None:
        start_ms = self.kernel.start_ms
        for node in self.nodes.values():
            node.start()
        for crash in faults.crashes:
            self._get_node(crash.node)
            self.kernel.at(start_ms + crash.at_ms, self._crash, crash.node)
            if crash.back_ms:
                self.kernel.at(start_ms + crash.back_ms, self._restart, crash.node)
        for named in faults.list_faults():
            self.kernel.at(start_ms + named.start_ms, self._tell_fault, FAULT_STARTED, named)
            if named.end_ms:
                self.kernel.at(start_ms + named.end_ms, self._tell_fault, FAULT_ENDED, named)

    def _tell_fault(self, name: str, named: Named) -> None:
        line = format_event(self.kernel.now_ms, NETWORK_LOG, name, named.describe())
        self._on_log(json.loads(line))

    def _note(self, kind: str, *arguments: Any) -> None:
        """Remember for the replay token what is done to the network from outside."""
        self._steps.append(Step(kind, self.elapsed_ms, self.kernel.events_run, arguments))

    def _crash(self, name: str) -> None:
        self._get_node(name).crash()

    def _restart(self, name: str) -> None:
        node = self._get_node(name)
        node.finish_crash()
        if not node.is_up:
            node.start()

    def _lose_asked(self, client: str) -> None:
        for (name, _), asked in self._asked.items():
            if name == client and asked.outcome is None:
                asked.is_lost = True

    def _get_node(self, name: str) -> SimNode:
        if name not in self.nodes:
            raise LocalError(f"there is no node {name}; there are {', '.join(self.nodes)}")
        return self.nodes[name]

    def _find_model(self, wanted: str | bytes) -> ModelRecord:
        for record in self._models.values():
            if wanted in (record.name, record.digest):
                return record
        raise LocalError(f"there is no model {wanted!r}; there are {', '.join(self._models)}")

    def _on_log(self, line: Mapping[str, Any]) -> None:
        if len(self.events) >= EVENTS_MAX:
            raise LocalError(f"the event logs of a simulation hold at most {EVENTS_MAX} lines")
        self.events.append(line)

    def _on_deliver(self, node: str, effect: ce.Deliver) -> None:
        self.deliveries.append((node, effect.outcome))
        if isinstance(effect.outcome, Tokens) and (node, effect.outcome.token) in self._asked:
            self._asked[node, effect.outcome.token].told += effect.outcome.tokens
        if isinstance(effect.outcome, Outcome):
            asked = self._asked.get((node, effect.outcome.token))
            if asked is not None:
                asked.outcome = effect.outcome
