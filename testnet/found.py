"""Lay a test network out on disk: keys, genesis, a data directory for every node, the network file."""

import hashlib
import json
import socket
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from p2p.addresses import compute_block
from protocol.keys import PrivateKey, format_account, format_node
from protocol.ledger.genesis import Genesis, compute_chain_id
from protocol.ledger.limits import ROWS_MAX
from protocol.ledger.model_records import ModelRecord, TensorSpec
from protocol.ledger.params import Params
from protocol.types import GRAINS_PER_ROLE
from roles.blobs import BlobStore
from roles.config import BootstrapPeer, NodeConfig, write_config, write_genesis
from roles.keystore import write_key
from roles.votelog import create_vote_log
from testnet.faults import LIARS
from testnet.genesis import (
    FEED_NAME,
    FEED_PATH,
    MODELS,
    PRICE_GRAINS,
    NodeSeeds,
    build_genesis,
    name_nodes,
    read_manifest,
    read_model_record,
)
from testnet.network_file import FILE_NAME, NetworkFile, NodeEntry, SpareAccount, write_network_file

PORT = 4001
FEED_HOST = 254  # last number of the feed server's address; nodes count from 1
FEED_PORT = 4080
LEASE_BYTES = 5 * 1024**3  # that a storage node lets: half of what its store may hold
LEASE_PRICE_GRAINS = GRAINS_PER_ROLE // 1_000  # per MiB and hour
ADDRESSES_TRIED_MAX = 32
MODELS_FOLDER = Path(__file__).parent / "models"
SAMPLES = MODELS_FOLDER / "digits-heldout.npz"
BOOTSTRAP_MAX = 16


class NoAddress(Exception):
    """No block of loopback addresses is free."""


@dataclass(frozen=True)
class ModelFile:
    """A model with its bytes, as the storage nodes hold it at the start."""

    record: ModelRecord
    data: bytes


@dataclass(frozen=True)
class NetworkPlan:
    """What to found. `roles` may name classes as `package.module:Class`; `liars` inference nodes lie on purpose."""

    directory: Path
    seed: int
    roles: Mapping[str, int]
    models: tuple[ModelFile, ...]
    liars: int = 0
    spare_accounts: int = 8
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # per role
    classes: Mapping[str, str] = field(default_factory=dict)  # role -> class to run instead of ours
    fee_idle_ms: int = Params().fee_idle_ms
    feeds: tuple[str, ...] = ()  # to be registered later, which oracles observe as their terms say


def found_network(plan: NetworkPlan, now_ms: int) -> NetworkFile:
    """Write everything under `plan.directory` and return what its network file says. Raises NoAddress, OSError."""
    short = {role.rpartition(":")[2].lower(): role for role in plan.roles}
    counts = {name: plan.roles[role] for name, role in short.items()}
    records = tuple(model.record for model in plan.models)
    foundation = build_genesis(plan.seed, counts, records, plan.spare_accounts, now_ms)
    params = replace(foundation.genesis.params, fee_idle_ms=plan.fee_idle_ms)
    genesis = replace(foundation.genesis, params=params)
    chain = compute_chain_id(genesis)
    block = find_addresses(plan.seed, len(foundation.nodes))
    feed_url = f"http://{block}.{FEED_HOST}:{FEED_PORT}/latest"
    entries = tuple(
        _describe(name, role, foundation.nodes[name], f"{block}.{index}")
        for index, (name, role) in enumerate(name_nodes(counts).items(), start=1)
    )
    for entry in entries:
        _write_node(plan, entry, entries, short, genesis, foundation.nodes[entry.name], feed_url)
    (plan.directory / "logs").mkdir(exist_ok=True)
    network = NetworkFile(
        name=f"dev-{chain.hex()[:6]}",
        chain=chain.hex(),
        seed=plan.seed,
        created_ms=now_ms,
        genesis=json.loads(genesis.to_json()),
        nodes=entries,
        accounts=tuple(
            SpareAccount(format_account(PrivateKey.from_seed(seed).public), seed.hex()) for seed in foundation.spare
        ),
        feed_url=feed_url if "oracle" in counts and "oracle" not in plan.options else "",
    )
    write_network_file(plan.directory / FILE_NAME, network)
    return network


def find_addresses(seed: int, count: int) -> str:
    """The first three numbers of a block of loopback addresses where nobody listens on our ports. Raises NoAddress."""
    for attempt in range(ADDRESSES_TRIED_MAX):
        numbers = hashlib.sha256(f"rolemesh/addresses/{seed}/{attempt}".encode()).digest()
        block = f"127.{1 + numbers[0] % 254}.{numbers[1]}"
        ends = [(f"{block}.{index}", PORT) for index in range(1, count + 1)] + [(f"{block}.{FEED_HOST}", FEED_PORT)]
        if all(is_free(host, port) for host, port in ends):
            return block
    raise NoAddress(f"none of {ADDRESSES_TRIED_MAX} blocks of loopback addresses has port {PORT} free")


def is_free(host: str, port: int) -> bool:
    """Whether a TCP port could be listened on now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def is_liar(name: str, liars: int) -> bool:
    """Whether a node is one of the first `liars` inference nodes.

    >>> is_liar("inference-0", 1), is_liar("inference-1", 1), is_liar("verifier-0", 1)
    (True, False, False)
    """
    role, _, index = name.rpartition("-")
    return role == "inference" and int(index) < liars


def load_model_files(names: Collection[str] = MODELS) -> tuple[ModelFile, ...]:
    """Those models, of the ones that ship with rolemesh, in the order of the manifest."""
    chosen = [fields for fields in read_manifest() if fields["name"] in names]
    return tuple(
        ModelFile(read_model_record(fields), (MODELS_FOLDER / fields["file"]).read_bytes()) for fields in chosen
    )


def find_samples() -> dict[str, Path]:
    """The file of held-out rows of each model that ships and has one, by the model's name."""
    files = {fields["name"]: MODELS_FOLDER / fields["heldout"]["file"] for fields in read_manifest()}
    return {name: file for name, file in files.items() if file.suffix == ".npz"}


def describe_model(path: Path, is_exact: bool, labels: tuple[str, ...] = ()) -> ModelFile:
    """The record of a user's own model, named like its file. Loads it once to read its types.

    Raises OSError, and EngineError when the model may not or cannot be run, or is said to be exact and is not.
    """
    from roles.engine.errors import ModelRefused
    from roles.engine.exactness import find_inexact
    from roles.engine.session import load_session
    from roles.engine.traceable import find_rows_max

    data = path.read_bytes()
    reason = find_inexact(data) if is_exact else ""
    if reason:
        raise ModelRefused(f"it is not of the exact class: {reason}")
    session = load_session(data)
    rows_max, limit = find_rows_max(data) if is_exact else (ROWS_MAX, "")
    if not rows_max:
        raise ModelRefused(f"its worker could not defend itself in a dispute: {limit}")
    record = ModelRecord(
        name=path.stem,
        digest=hashlib.sha256(data).digest(),
        exact=int(is_exact),
        inputs=tuple(TensorSpec(spec.dtype, spec.shape) for spec in session.inputs),
        outputs=tuple(TensorSpec(spec.dtype, spec.shape) for spec in session.outputs),
        labels=labels,
        size_bytes=len(data),
        rows_max=rows_max,
    )
    return ModelFile(record, data)


def _describe(name: str, role: str, seeds: NodeSeeds, host: str) -> NodeEntry:
    return NodeEntry(
        name=name,
        role=role,
        node=format_node(PrivateKey.from_seed(seeds.node).public),
        account=format_account(PrivateKey.from_seed(seeds.account).public),
        addresses=(f"/ip4/{host}/tcp/{PORT}",),
        directory=f"nodes/{name}",
    )


def _write_node(
    plan: NetworkPlan,
    entry: NodeEntry,
    entries: tuple[NodeEntry, ...],
    classes: Mapping[str, str],
    genesis: Genesis,
    seeds: NodeSeeds,
    feed_url: str,
) -> None:
    directory = plan.directory / entry.directory
    directory.mkdir(parents=True)
    given = build_role_options(entry.role, feed_url, plan.feeds)
    options = {entry.role: {**given, **plan.options.get(entry.role, {})}}
    role = LIARS["inference"] if is_liar(entry.name, plan.liars) else plan.classes.get(entry.role, classes[entry.role])
    others = [other for other in entries if other is not entry]
    config = NodeConfig(
        name=entry.name,
        roles=(role,),
        listen=entry.addresses[0],
        bootstrap=tuple(BootstrapPeer(other.node, other.addresses) for other in choose_bootstrap(others)),
        options=options,
        # Everybody here is one of us, however many share a block; whoever comes from elsewhere is counted.
        faults=True,
        trusted=(compute_block(entry.addresses[0].split("/")[2]),),
    )
    write_config(directory, config)
    write_genesis(directory, genesis)
    chain = compute_chain_id(genesis)
    for purpose, seed in (("node", seeds.node), ("account", seeds.account), ("vote", seeds.vote)):
        if seed is not None:
            write_key(directory, purpose, seed, chain)
    if seeds.vote is not None:
        create_vote_log(directory, chain, PrivateKey.from_seed(seeds.vote).public)
    if entry.role == "storage":
        store = BlobStore(directory / "blobs")
        for model in plan.models:
            store.put(model.data, model.record.digest)


def choose_bootstrap(others: list[NodeEntry]) -> list[NodeEntry]:
    """The peers to dial first: validators and storage nodes before the rest, since everybody needs them."""
    return sorted(others, key=lambda node: node.role not in ("validator", "storage"))[:BOOTSTRAP_MAX]


def build_role_options(role: str, feed_url: str, feeds: Collection[str] = ()) -> dict[str, Any]:
    """What a role on a test network is told besides its keys."""
    if role == "inference":
        return {"price": PRICE_GRAINS}
    if role == "storage":
        return {"lease_bytes": LEASE_BYTES, "lease_price": LEASE_PRICE_GRAINS}
    if role == "oracle" and feed_url:
        return {"feeds": {FEED_NAME: {"url": feed_url, "path": FEED_PATH}, **{name: {} for name in feeds}}}
    return {}
