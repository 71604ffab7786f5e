"""The network file, `testnet.json`: all that is needed to find, join and use a test network.

It names every node with its address, holds the genesis whole, and the seeds of spare funded accounts: public
development keys, good on this one chain. It is written atomically: a reader sees an old file or a new one, never half.
"""

import fcntl
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from roles.files import write_atomically

FILE_NAME = "testnet.json"
LOCK_NAME = "launcher.lock"
CLAIMS_NAME = "claims"
HOME = Path(".rolemesh")
FILE_BYTES_MAX = 16 * 1024 * 1024
FORMAT = 1


class NetworkFileError(Exception):
    """The file is not there, or is not a network file. The message says which and why."""


@dataclass(frozen=True)
class NodeEntry:
    """One node of the network. `directory` is relative to the file; `pid` is that of its first process."""

    name: str
    role: str
    node: str  # 12D3Koo…
    account: str  # rm1…
    addresses: tuple[str, ...]  # multiaddrs without /p2p
    directory: str
    pid: int = 0


@dataclass(frozen=True)
class SpareAccount:
    """A funded account nobody uses yet, with its seed in hex: a public development key."""

    account: str
    seed: str


@dataclass(frozen=True)
class NetworkFile:
    """What `testnet.json` holds. `genesis` is the genesis as JSON, `chain` its id in hex."""

    name: str
    chain: str
    seed: int
    created_ms: int
    genesis: Mapping[str, Any]
    nodes: tuple[NodeEntry, ...]
    accounts: tuple[SpareAccount, ...]
    feed_url: str = ""
    launcher_pid: int = 0

    def get_node(self, name: str) -> NodeEntry | None:
        return next((node for node in self.nodes if node.name == name), None)

    def with_pids(self, pids: Mapping[str, int], launcher_pid: int) -> "NetworkFile":
        """The same network with the processes that run it."""
        nodes = tuple(replace(node, pid=pids.get(node.name, node.pid)) for node in self.nodes)
        return replace(self, nodes=nodes, launcher_pid=launcher_pid)


def write_network_file(path: Path, network: NetworkFile) -> None:
    """Write the file atomically."""
    fields = {"format": FORMAT, "note": "test network: every key in this file is public", **asdict(network)}
    write_atomically(path, json.dumps(fields, indent=1) + "\n")


def read_network_file(path: Path) -> NetworkFile:
    """Read and check a network file. Raises NetworkFileError."""
    fields = _read_object(path)
    try:
        if fields["format"] != FORMAT:
            raise NetworkFileError(f"{path} has format {fields['format']}, this rolemesh reads {FORMAT}")
        network = NetworkFile(
            name=str(fields["name"]),
            chain=str(fields["chain"]),
            seed=int(fields["seed"]),
            created_ms=int(fields["created_ms"]),
            genesis=dict(fields["genesis"]),
            nodes=tuple(_read_node(node) for node in fields["nodes"]),
            accounts=tuple(SpareAccount(str(spare["account"]), str(spare["seed"])) for spare in fields["accounts"]),
            feed_url=str(fields["feed_url"]),
            launcher_pid=int(fields["launcher_pid"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise NetworkFileError(f"{path} is not a network file: {type(error).__name__}: {error}") from error
    return network


def find_network(where: Path | None) -> Path:
    """The network file meant by `where`: a file, a directory that holds one, or the newest under ./.rolemesh.

    Raises NetworkFileError when there is none.
    """
    if where is not None:
        path = where / FILE_NAME if where.is_dir() else where
        if not path.is_file():
            raise NetworkFileError(f"no network file at {path}")
        return path
    found = [path for path in HOME.glob(f"*/{FILE_NAME}") if path.is_file()]
    if not found:
        raise NetworkFileError(f"no network under {HOME}")
    return max(found, key=lambda path: (is_running(path.parent), path.stat().st_mtime))


def is_running(directory: Path) -> bool:
    """Whether a launcher holds this network directory."""
    lock = directory / LOCK_NAME
    return lock.is_file() and is_locked(lock)


def is_locked(path: Path) -> bool:
    """Whether some process holds the lock on a file. The kernel drops it when that process dies, however it dies."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def claim_account(path: Path, network: NetworkFile, claimant: str) -> SpareAccount:
    """Take a spare account of the network for good; two claimants never get the same one.

    The claim is a file made with O_EXCL beside the network file. Raises NetworkFileError when all are taken.
    """
    claims = path.parent / CLAIMS_NAME
    claims.mkdir(exist_ok=True)
    for spare in network.accounts:
        try:
            with (claims / spare.account).open("x", encoding="utf-8") as file:
                file.write(claimant)
        except FileExistsError:
            continue
        return spare
    raise NetworkFileError(f"all {len(network.accounts)} spare accounts of {network.name} are taken")


def _read_object(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise NetworkFileError(f"{path} is larger than {FILE_BYTES_MAX} bytes")
        fields = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise NetworkFileError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise NetworkFileError(f"{path} is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise NetworkFileError(f"{path} is not a network file: it holds no object")
    return fields


def _read_node(fields: Mapping[str, Any]) -> NodeEntry:
    return NodeEntry(
        name=str(fields["name"]),
        role=str(fields["role"]),
        node=str(fields["node"]),
        account=str(fields["account"]),
        addresses=tuple(str(address) for address in fields["addresses"]),
        directory=str(fields["directory"]),
        pid=int(fields["pid"]),
    )
