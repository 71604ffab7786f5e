"""Join a running test network: make the data directory of one more node."""

import hashlib
import json
import os
import secrets
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from protocol.keys import PrivateKey, format_node
from protocol.ledger.genesis import Genesis, compute_chain_id
from roles.config import (
    ENGINE_WORKERS_MAX,
    BootstrapPeer,
    ConfigError,
    NodeConfig,
    parse_peer,
    read_config,
    write_config,
    write_genesis,
)
from roles.engine.remote.settings import BackendConfig, parse_backend
from roles.keystore import write_key
from roles.lock import is_locked
from roles.votelog import create_vote_log
from testnet.found import ADDRESSES_TRIED_MAX, PORT, NoAddress, build_role_options, choose_bootstrap, is_free
from testnet.network_file import (
    NetworkFile,
    NetworkFileError,
    SpareAccount,
    claim_account,
    find_network,
    read_network_file,
)

CLIENTS_NAME = "clients"
CLIENTS_MAX = 64
NO_BUCKET = "none"


def make_node(
    directory: Path, network: NetworkFile, spare: SpareAccount, role: str, listen: str = "", name: str = ""
) -> dict[str, Any]:
    """Make a data directory with a node key of its own and a spare account of the network.

    Raises ConfigError when the network file holds no sound genesis, NoAddress, or OSError.
    """
    genesis = read_network_genesis(network)
    directory.mkdir(parents=True, exist_ok=True)
    seed = secrets.token_bytes(32)
    node = format_node(PrivateKey.from_seed(seed).public)
    write_genesis(directory, genesis)
    write_key(directory, "node", seed, None)
    write_key(directory, "account", bytes.fromhex(spare.seed), bytes.fromhex(network.chain))
    if role == "validator":
        vote = secrets.token_bytes(32)
        write_key(directory, "vote", vote, bytes.fromhex(network.chain))
        create_vote_log(directory, bytes.fromhex(network.chain), PrivateKey.from_seed(vote).public)
    config = NodeConfig(
        name=name or f"{role.rpartition(':')[2].lower()}-{node[-6:]}",
        roles=(role,),
        listen=listen or find_address(spare.account),
        bootstrap=tuple(BootstrapPeer(peer.node, peer.addresses) for peer in choose_bootstrap(list(network.nodes))),
        options=_build_options(role, network),
        enrol=role != "client",
        engine_workers=count_engine_workers(),
    )
    # Last: a directory without it is no node yet, so a crash before this line leaves nothing that could be run.
    write_config(directory, config)
    return {
        "directory": str(directory),
        "name": config.name,
        "role": role,
        "node": node,
        "account": spare.account,
        "listen": config.listen,
        "network": network.name,
    }


def count_engine_workers() -> int:
    """How many models a node on this machine may run at once: one per processor it may use, but one for its loop."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return min(max(1, cores - 1), ENGINE_WORKERS_MAX)


def change_node(
    directory: Path,
    role: str = "",
    listen: str = "",
    announce: tuple[str, ...] = (),
    http: str = "",
    direct: tuple[str, ...] = (),
    keep_blocks: int | None = None,
    backends: tuple[str, ...] = (),
    bucket: str = "",
    engine_workers: int | None = None,
) -> NodeConfig:
    """The configuration of a data directory, rewritten first when an argument asks for something else.

    An empty one changes nothing; of `backends` each changes its own model's. Raises ConfigError.
    """
    config = read_config(directory)
    changed = config
    if role and config.roles != (role,):
        changed = replace(changed, roles=(role,), enrol=role != "client")
    if listen and config.listen != listen:
        changed = replace(changed, listen=listen)
    if announce:
        changed = replace(changed, announce=announce)
    if http:
        changed = replace(changed, http=http)
    if keep_blocks is not None:
        changed = replace(changed, keep_blocks=keep_blocks)
    if engine_workers is not None:
        changed = replace(changed, engine_workers=engine_workers)
    if direct:
        changed = replace(changed, direct=tuple(parse_peer(text) for text in direct))
    if bucket:
        changed = replace(changed, store_bucket="" if bucket == NO_BUCKET else bucket)
    if backends:
        changed = replace(changed, backends=_change_backends(changed.backends, backends))
    if changed != config:
        write_config(directory, changed)
    return changed


def _change_backends(held: tuple[BackendConfig, ...], texts: tuple[str, ...]) -> tuple[BackendConfig, ...]:
    """What stands in `node.json` beside model and URL stays as it is while the URL does."""
    backends = {backend.model: backend for backend in held}
    for text in texts:
        model, backend = text.partition("=")[0], parse_backend(text)
        if backend is None:
            backends.pop(model, None)
        elif model not in backends or backends[model].url != backend.url:
            backends[model] = backend
    return tuple(backends.values())


def read_network_genesis(network: NetworkFile) -> Genesis:
    """The genesis inside a network file, checked against the chain id beside it. Raises ConfigError."""
    genesis = Genesis.from_json(json.dumps(network.genesis))
    if compute_chain_id(genesis).hex() != network.chain:
        raise ConfigError(
            f"the genesis of {network.name} is not that of chain {network.chain}", "get the network file again"
        )
    return genesis


def find_address(account: str) -> str:
    """A loopback multiaddr nobody listens on, the same for the same account while that is free. Raises NoAddress."""
    for attempt in range(ADDRESSES_TRIED_MAX):
        numbers = hashlib.sha256(f"{account}/{attempt}".encode()).digest()
        host = f"127.{1 + numbers[0] % 254}.{numbers[1]}.{1 + numbers[2] % 250}"
        if is_free(host, PORT):
            return f"/ip4/{host}/tcp/{PORT}"
    raise NoAddress(f"none of {ADDRESSES_TRIED_MAX} loopback addresses has port {PORT} free")


def find_client(home: Path) -> tuple[Path, bool]:
    """A client's data directory under a network's that no process uses, and whether it must be made first."""
    for index in range(CLIENTS_MAX):
        directory = home / CLIENTS_NAME / str(index)
        if not (directory / "node.json").is_file():
            return directory, True
        if not is_locked(directory):
            return directory, False
    raise ConfigError(f"all {CLIENTS_MAX} clients of this network are in use", "wait until one of them has ended")


class NoAccount(ConfigError):
    """All spare accounts of a network are taken."""


def open_client(network: Path) -> Path:
    """The data directory of a network's client that nobody uses now, for `Client.join`; a new one is made if need be.

    `network` is a network file or the directory that holds it; a new client takes a spare account for good. Raises
    NoAccount, ConfigError, NetworkFileError.
    """
    path = find_network(network)
    found = read_network_file(path)
    directory, is_new = find_client(path.parent)
    if is_new:
        try:
            spare = claim_account(path, found, str(directory))
        except NetworkFileError as error:
            hint = "start a network with more of them: `rolemesh testnet up --accounts 32`"
            raise NoAccount(str(error), hint) from error
        make_node(directory, found, spare, "client", name=f"client-{directory.name}-cli")
    return directory


def _build_options(role: str, network: NetworkFile) -> Mapping[str, Mapping[str, Any]]:
    options = build_role_options(role, network.feed_url)
    return {role: options} if options else {}
