"""A small network for a benchmark of inference: one worker with all that it needs, processes on loopback."""

import json
import signal
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from protocol.content import compute_digest, format_cid
from protocol.types import GRAINS_PER_ROLE
from roles.config import read_config, write_config
from testnet.bench.inference.node import LOOP_NAME
from testnet.found import NetworkPlan, NoAddress, describe_model, found_network
from testnet.join import make_node
from testnet.launch import LIVE_STATES, NODE, Launcher, plan_node, read_status
from testnet.network_file import NetworkFile
from testnet.papers import count_under_way

ROLES: Mapping[str, int] = {"validator": 1, "storage": 1, "inference": 1, "verifier": 2}
WORKER = "inference-0"
RUN_MODELS = ("inference", "verifier")
SEED = 30
READY_S = 30.0
LOOP_S = 5.0
POLL_S = 0.05
TARGETS = {"inference": "testnet.bench.inference.node:main"}
WARM = ("p2p.libp2p_net", "roles.node")
DEPOSIT_GRAINS = 2_000 * GRAINS_PER_ROLE  # of the client's channel: more rows than a run asks for
VOUCHER_STEP = 512  # so that the client holds nothing back: the worker is to say what is too much


class NotReady(Exception):
    """The network did not come up, or did not do what is measured. The message says what."""


@dataclass
class Network:
    """The running processes, and the data directory of a client that may join them."""

    launcher: Launcher
    directory: Path
    client: Path

    @property
    def file(self) -> NetworkFile:
        return self.launcher.network

    def has_loaded(self, paths: Iterable[Path]) -> bool:
        """Whether the worker and the verifiers, who load what they are drawn for, have these models running."""
        wanted = {format_cid(compute_digest(path.read_bytes())) for path in paths}
        nodes = [node for node in self.file.nodes if node.role in RUN_MODELS]
        return all(wanted <= read_status(self.directory, node).get("models", {}).keys() for node in nodes)

    def count_unsettled(self) -> int:
        """Jobs that the worker has claimed and not seen settled."""
        return count_under_way(self.directory / "nodes" / WORKER)

    def watch_loop(self) -> None:
        """Forget how long the worker's event loop was blocked so far."""
        self.launcher.kill(WORKER, signal.SIGUSR1)

    def get_loop_ms(self) -> tuple[float, float]:
        """The longest the worker's event loop was blocked since: by what it did, and by the clock. Raises NotReady."""
        path = self.directory / "nodes" / WORKER / LOOP_NAME
        path.unlink(missing_ok=True)
        self.launcher.kill(WORKER, signal.SIGUSR2)
        deadline = time.monotonic() + LOOP_S
        while not path.exists():
            if time.monotonic() > deadline:
                raise NotReady(f"the worker does not say how its loop fared: {read_last_words(self.directory)}")
            time.sleep(POLL_S)
        found = json.loads(path.read_text())
        return float(found["max_ms"]), float(found["clock_max_ms"])


@contextmanager
def run_network(paths: list[Path]) -> Iterator[Network]:
    """Found a network that serves these model files; all is gone afterwards. Raises NotReady."""
    with TemporaryDirectory(prefix="rolemesh-bench-") as folder:
        directory = Path(folder) / "net"
        directory.mkdir()
        models = tuple(describe_model(path, is_exact=False) for path in paths)
        try:
            network = found_network(NetworkPlan(directory, SEED, ROLES, models), time.time_ns() // 1_000_000)
        except NoAddress as error:
            raise NotReady(str(error)) from error
        client = _make_client(Path(folder) / "client", network)
        with Launcher(directory, network, warm=WARM) as launcher:
            launcher.start([plan_node(directory, node, TARGETS.get(node.role, NODE)) for node in network.nodes])

            def is_ready() -> bool:
                states = [read_status(directory, node).get("state") for node in network.nodes]
                return all(state in LIVE_STATES for state in states)

            if not launcher.wait(is_ready, READY_S, lambda: None):
                raise NotReady(f"the network is not ready after {READY_S:.0f} s: {read_last_words(directory)}")
            yield Network(launcher, directory, client)


def read_last_words(directory: Path) -> str:
    """The last line of every log that has any."""
    logs = {path.stem: path.read_text().splitlines() for path in sorted((directory / "logs").glob("*.log"))}
    return "; ".join(f"{name}: {lines[-1]}" for name, lines in logs.items() if lines) or "they have said nothing"


def _make_client(directory: Path, network: NetworkFile) -> Path:
    make_node(directory, network, network.accounts[0], "client", name="client")
    options = {"client": {"channel_deposit": DEPOSIT_GRAINS, "voucher_step": VOUCHER_STEP}}
    write_config(directory, replace(read_config(directory), options=options))
    return directory
