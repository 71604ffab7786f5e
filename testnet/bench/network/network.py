"""The network of a load: founded, its processes run, its load paced, its faults played, its memory watched."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from testnet.bench.inference.network import read_last_words
from testnet.bench.network.pace import PACE_NAME, AskedFollower, ClientPlan, write_pace, write_plan
from testnet.fault_desk import FaultDesk
from testnet.faults import FaultPlan
from testnet.found import SAMPLES, NetworkPlan, NoAddress, found_network, load_model_files
from testnet.launch import LIVE_STATES, Launcher, Program, plan_programs, read_status
from testnet.network_file import NetworkFile
from testnet.papers import count_under_way

MODEL = "digits"
CLIENT = "testnet.bench.network.client:main"
ROLES: Mapping[str, int] = {"validator": 4, "inference": 4, "verifier": 3, "storage": 1, "oracle": 1, "client": 2}
LIARS = 1
LIE_BP = 2_000  # of one worker's in four: one answer in twenty is a lie
# Enough for all that is asked on one channel; and clients hold nothing back but what workers would turn away.
CLIENT_OPTIONS = {"channel_deposit": 100 * 10**9, "voucher_step": 512}
BATCH_MS = 3_000
READY_S = 60.0
SAMPLE_S = 1.0
LOOK_S = 2.0  # between two looks at what is under way on disk
SETTLE_S = 200.0  # a voucher lives for 130: what its worker has not settled by then is its client's
KILLED = -9  # as the launcher tells it


class NotRun(Exception):
    """The network did not come up. The text says what is missing, and what its nodes said last."""


@dataclass(frozen=True)
class Wanted:
    """What to run. `timeout_ms` is how long each request may take."""

    seed: int
    mode: str
    timeout_ms: int
    roles: Mapping[str, int] = field(default_factory=lambda: ROLES)


@dataclass(frozen=True)
class Phase:
    """A stretch of the load, in milliseconds since the epoch. `per_s` is what was offered."""

    name: str
    per_s: float
    start_ms: int
    end_ms: int


@dataclass
class Life:
    """One process: its bytes in RAM at each second of `times_s`."""

    role: str
    times_s: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)


@dataclass
class Network:
    """The running processes, and what has been seen of them."""

    wanted: Wanted
    directory: Path
    launcher: Launcher
    desk: FaultDesk
    follower: AskedFollower
    phases: list[Phase] = field(default_factory=list)
    lives: dict[tuple[str, int], Life] = field(default_factory=dict)  # by node and process
    _sampled_s: float = 0.0
    _looked_s: float = 0.0

    @property
    def file(self) -> NetworkFile:
        return self.launcher.network

    def list_names(self, *roles: str) -> list[str]:
        return [node.name for node in self.file.nodes if node.role in roles]

    def hold(self, name: str, per_s: float, seconds: float, requests_max: int | None = None) -> Phase:
        """Offer so much for so long, or until so many requests are over in all."""

        def is_enough() -> bool:
            return requests_max is not None and len(self.follower.asked) >= requests_max

        write_pace(self.directory / PACE_NAME, per_s)
        start_ms = get_now_ms()
        self.launcher.wait(is_enough, seconds, self._tick)
        phase = Phase(name, per_s, start_ms, get_now_ms())
        self.phases.append(phase)
        return phase

    def break_off(self, plan: FaultPlan) -> None:
        """Have these faults happen, their times counted from now."""
        self.desk.add(plan, by="bench")

    def settle(self) -> bool:
        """Ask nothing more until nothing is under way on anybody's disk; whether that came about in time."""
        write_pace(self.directory / PACE_NAME, 0.0)
        return self.launcher.wait(self._is_settled, SETTLE_S, self._tick)

    def list_dead(self) -> dict[str, int]:
        """Nodes that ended by themselves, with their codes."""
        return {name: code for name, code in self.launcher.exits.items() if code != KILLED}

    def _is_settled(self) -> bool:
        now_s = time.monotonic()
        if now_s < self._looked_s + LOOK_S:
            return False
        self._looked_s = now_s
        places = [self.directory / node.directory for node in self.file.nodes if node.role in ("client", "inference")]
        return self.desk.is_quiet and not any(count_under_way(place) for place in places)

    def _tick(self) -> None:
        self.desk.tick()
        now_s = time.monotonic()
        if now_s < self._sampled_s + SAMPLE_S:
            return
        self._sampled_s = now_s
        self.follower.read()
        for node in self.file.nodes:
            status = read_status(self.directory, node)
            if status.get("pid") == self.launcher.pids[node.name] and node.name not in self.launcher.exits:
                life = self.lives.setdefault((node.name, status["pid"]), Life(node.role))
                life.times_s.append(now_s)
                life.sizes.append(int(status["rss_bytes"]))


@contextmanager
def run_network(directory: Path, wanted: Wanted) -> Iterator[Network]:
    """All nodes, serving, in an empty directory; their processes are gone afterwards. Raises NotRun, LaunchError."""
    directory.mkdir()
    model = load_model_files((MODEL,))
    options = {"client": CLIENT_OPTIONS, "inference": {"batch_ms": BATCH_MS, "lie_bp": LIE_BP}}
    plan = NetworkPlan(directory, wanted.seed, wanted.roles, model, LIARS, options=options)
    try:
        file = found_network(plan, get_now_ms())
    except NoAddress as error:
        raise NotRun(str(error)) from error
    clients = [directory / node.directory for node in file.nodes if node.role == "client"]
    pace, samples = str((directory / PACE_NAME).resolve()), str(SAMPLES.resolve())
    digest = model[0].record.digest.hex()
    for client in clients:
        write_plan(client, ClientPlan(pace, samples, digest, wanted.mode, wanted.timeout_ms, len(clients)))
    programs = {program.name: program for program in _plan_programs(directory, file)}
    with Launcher(directory, file) as launcher:
        launcher.start(list(programs.values()))
        desk = FaultDesk(directory, launcher, programs)
        network = Network(wanted, directory, launcher, desk, AskedFollower(clients))
        if not launcher.wait(lambda: not _find_waiting(network), READY_S, lambda: None):
            waiting = ", ".join(_find_waiting(network))
            raise NotRun(f"after {READY_S:.0f} s these nodes do not serve: {waiting}; {read_last_words(directory)}")
        launcher.record_pids()
        try:
            yield network
        finally:
            network.desk.close()


def get_now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def _plan_programs(directory: Path, file: NetworkFile) -> Iterator[Program]:
    for program in plan_programs(directory, file, has_load=False):
        is_client = program.name.startswith("client-")
        yield replace(program, target=CLIENT) if is_client else program


def _find_waiting(network: Network) -> list[str]:
    """Names of the nodes that do not serve with all others as their peers."""
    states = {node.name: read_status(network.directory, node) for node in network.file.nodes}
    return [
        name
        for name, state in states.items()
        if state.get("state") not in LIVE_STATES or len(state.get("peers", ())) < len(states) - 1
    ]
