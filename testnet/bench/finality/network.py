"""Four validators as processes on loopback, their ledgers on a real disk, for as long as a benchmark runs."""

import json
import os
import signal
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from protocol.ledger.genesis import Genesis
from testnet.bench.finality.shares import NAMES
from testnet.bench.finality.validator import SHARES_NAME
from testnet.found import NetworkPlan, NoAddress, found_network
from testnet.launch import LIVE_STATES, Launcher, Program, read_status
from testnet.network_file import NetworkFile

VALIDATORS = 4
PAYERS = 250
SEED = 20
READY_S = 30.0
SHARES_S = 5.0
POLL_S = 0.05
CLIENT = 200  # last number of the client's address
TARGET = "testnet.bench.finality.validator:main"
# Full blocks raise the fee by an eighth each, and a minute holds two hundred: here it falls again every millisecond
# between two blocks, or transfers would wait for a fee they had agreed to rather than for the network.
FEE_IDLE_MS = 1
WARM = ("p2p.libp2p_net", "roles.node")


class NotReady(Exception):
    """The validators did not come up, or did not do what is measured. The message says what."""


@dataclass
class Validators:
    """The running processes."""

    launcher: Launcher
    directory: Path

    @property
    def network(self) -> NetworkFile:
        return self.launcher.network

    @property
    def genesis(self) -> Genesis:
        return Genesis.from_json(json.dumps(self.network.genesis))

    @property
    def client_host(self) -> str:
        """An address of its own, of the same block."""
        return f"{self.network.nodes[0].addresses[0].split('/')[2].rpartition('.')[0]}.{CLIENT}"

    def get_cpu_s(self) -> float:
        """Processor time all of them have used so far. Raises NotReady when one has ended."""
        ticks = 0
        for name, pid in self.launcher.pids.items():
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except FileNotFoundError as error:
                self.launcher.poll(POLL_S)
                how, words = self.launcher.exits.get(name), read_last_words(self.directory)
                raise NotReady(f"{name} has ended by itself, with {how}: {words}") from error
            ticks += int(fields[11]) + int(fields[12])  # user and system
        return ticks / os.sysconf("SC_CLK_TCK")

    def start_sampling(self) -> None:
        for node in self.network.nodes:
            (self.directory / node.directory / SHARES_NAME).unlink(missing_ok=True)
            self.launcher.kill(node.name, signal.SIGUSR1)

    def stop_sampling(self) -> dict[str, float]:
        """Shares of their time in percent, the mean of all. Raises NotReady."""
        for node in self.network.nodes:
            self.launcher.kill(node.name, signal.SIGUSR2)
        paths = [self.directory / node.directory / SHARES_NAME for node in self.network.nodes]
        deadline = time.monotonic() + SHARES_S
        while not all(path.exists() for path in paths):
            if time.monotonic() > deadline:
                words = read_last_words(self.directory)
                raise NotReady(f"a validator does not say where its time went: {words}")
            time.sleep(POLL_S)
        shares = [json.loads(path.read_text()) for path in paths]
        return {name: round(statistics.mean(each.get(name, 0.0) for each in shares), 1) for name in NAMES}


@contextmanager
def run_validators(target: str = TARGET) -> Iterator[Validators]:
    """Found a ledger and start its validators; all is gone afterwards. Raises NotReady."""
    with TemporaryDirectory(prefix="rolemesh-bench-") as folder:
        directory = Path(folder) / "net"
        plan = NetworkPlan(
            directory, SEED, {"validator": VALIDATORS}, (), spare_accounts=PAYERS, fee_idle_ms=FEE_IDLE_MS
        )
        directory.mkdir()
        try:
            network = found_network(plan, time.time_ns() // 1_000_000)
        except NoAddress as error:
            raise NotReady(str(error)) from error
        with Launcher(directory, network, warm=WARM) as launcher:
            programs = [
                Program(node.name, target, (str(directory / node.directory),), directory / "logs" / f"{node.name}.log")
                for node in network.nodes
            ]
            launcher.start(programs)

            def is_ready() -> bool:
                states = [read_status(directory, node) for node in network.nodes]
                live = [len(state.get("peers", ())) for state in states if state.get("state") in LIVE_STATES]
                return len(live) == VALIDATORS and min(live) == VALIDATORS - 1

            if not launcher.wait(is_ready, READY_S, lambda: None):
                raise NotReady(f"the validators are not ready after {READY_S:.0f} s: {read_last_words(directory)}")
            yield Validators(launcher, directory)


def read_last_words(directory: Path) -> str:
    """The last line of every log that has any."""
    logs = {path.stem: path.read_text().splitlines() for path in sorted((directory / "logs").glob("*.log"))}
    return "; ".join(f"{name}: {lines[-1]}" for name, lines in logs.items() if lines) or "they have said nothing"
