"""A folder from one node's store into another's: two node processes on loopback, beside raw TCP, the disk and the hash.

The clock runs from the moment the receiver is told what to fetch until it says that all of it is pinned: every block
hashed by both, sent over libp2p, synced. Rounds take turns with the ceilings, and the receiver's store is emptied
between them.
"""

import os
import socket
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from protocol.cid import Cid
from roles.control import ask_node
from roles.store.collecting import collect
from roles.store.importing import import_path
from roles.store.store import STORE_NAME, Store
from testnet.bench.figures import Figure, Note, compare
from testnet.bench.store import MB, MIB, RoundFailed, copy_folder, hash_folder, make_folder, take_time
from testnet.found import NetworkPlan, NoAddress, found_network
from testnet.launch import LIVE_STATES, Launcher, Program, read_status
from testnet.network_file import NetworkFile

ROLES = {"validator": 1, "storage": 2}
SOURCE, TARGET = "storage-0", "storage-1"
SEED = 41
READY_S, ROUND_S = 30.0, 600.0
POLL_S = 0.03  # a question costs the node half a millisecond
WARM = ("p2p.libp2p_net", "roles.node")


def measure(note: Note, folder: Path, size: int, rounds: int) -> Iterator[Figure]:
    """Figures as they come; `folder` is one that may be filled. Raises RoundFailed, OSError."""
    make_folder(folder / "in", size)
    found: dict[str, list[float]] = {"transfer": [], "tcp": [], "hash": [], "disk_write": []}
    with run_network(folder / "net") as (network, homes):
        cid = put(homes[SOURCE], folder / "in")
        for number in range(rounds):
            note(f"transfer: round {number + 1} of {rounds}")
            found["transfer"].append(size / MB / fetch(network, homes[TARGET], cid))
            empty(homes[TARGET], cid)
            found["tcp"].append(size / MB / send_raw(size))
            found["hash"].append(take_time(size, lambda: hash_folder(folder / "in"))[0])
            raw = folder / f"raw-{number}"
            found["disk_write"].append(take_time(size, partial(copy_folder, folder / "in", raw, is_synced=True))[0])
    median = {name: statistics.median(values) for name, values in found.items()}
    yield compare("transfer", median["transfer"], "MB/s", "raw TCP", median["tcp"])
    yield compare("transfer", median["transfer"], "MB/s", "sha256", median["hash"])
    yield compare("transfer", median["transfer"], "MB/s", "one file, synced", median["disk_write"])


@contextmanager
def run_network(directory: Path) -> Iterator[tuple[NetworkFile, dict[str, Path]]]:
    """Two storage nodes and a validator that has nothing to do; their data directories by name. Raises RoundFailed."""
    directory.mkdir()
    try:
        network = found_network(NetworkPlan(directory, SEED, ROLES, ()), time.time_ns() // 1_000_000)
    except NoAddress as error:
        raise RoundFailed(str(error)) from error
    homes = {node.name: directory / node.directory for node in network.nodes}
    with Launcher(directory, network, warm=WARM) as launcher:
        logs = directory / "logs"
        launcher.start(
            [Program(name, "roles.node:main", (str(home),), logs / f"{name}.log") for name, home in homes.items()]
        )

        def is_ready() -> bool:
            return all(read_status(directory, node).get("state") in LIVE_STATES for node in network.nodes)

        if not launcher.wait(is_ready, READY_S, lambda: None):
            raise RoundFailed(f"the nodes are not ready after {READY_S:.0f} s: see {logs}")
        yield network, homes


def put(home: Path, folder: Path) -> Cid:
    with Store(home / STORE_NAME, free_bytes_min=0) as store:
        return import_path(store, folder).root.cid


def fetch(network: NetworkFile, home: Path, cid: Cid) -> float:
    """Have the node of a directory fetch from the other one; the seconds that it takes. Raises RoundFailed."""
    source = network.get_node(SOURCE)
    assert source is not None
    peers = [{"node": source.node, "addresses": list(source.addresses)}]
    begun_s = time.monotonic()
    told: dict[str, Any] = ask_node(home, {"command": "store.gather", "cid": str(cid), "peers": peers, "begin": True})
    while told["state"] == "fetching" and time.monotonic() < begun_s + ROUND_S:
        time.sleep(POLL_S)
        told = ask_node(home, {"command": "store.gather", "cid": str(cid)})
    if told["state"] != "held":
        raise RoundFailed(f"the folder did not come: {told}")
    return time.monotonic() - begun_s


def empty(home: Path, cid: Cid) -> None:
    with Store(home / STORE_NAME, free_bytes_min=0) as store:
        store.unpin(cid)
        collect(store)


def send_raw(size: int) -> float:
    """Seconds to send so many bytes over loopback to another process that drops them."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        child = os.fork()
        if not child:
            _sink(server)
        with socket.create_connection(server.getsockname()) as sock:
            piece = bytes(MIB)
            begun_s = time.monotonic()
            for at in range(0, size, MIB):
                sock.sendall(piece[: size - at])
            sock.shutdown(socket.SHUT_WR)
            sock.recv(1)  # the other side has had it all
            took_s = time.monotonic() - begun_s
        os.waitpid(child, 0)
    return took_s


def _sink(server: socket.socket) -> None:
    """What the other process does; it never returns."""
    try:
        peer, _ = server.accept()
        while peer.recv(MIB):
            pass
        peer.sendall(b"!")
    finally:
        os._exit(0)
