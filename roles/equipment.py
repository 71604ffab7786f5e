"""Open all that a running node has its hands on: data directory, database, blobs, engine, network.

Whatever cannot be opened is said in terms of what to do about it, and nothing stays open behind a failure.
"""

import ipaddress
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import structlog
import trio

from p2p.addresses import is_loopback
from p2p.doors import HostLimits
from p2p.guard import MemoryDamaged
from p2p.libp2p_net import Libp2pNet, NetOptions, open_libp2p_net
from p2p.listening import CannotListen
from p2p.net import NetEvent
from protocol.errors import MissingBlob
from protocol.keys import PrivateKey, parse_node
from protocol.ledger.genesis import Genesis, build_state, compute_chain_id
from roles import core_effects as ce
from roles.blobs import BlobStore
from roles.chain import DATABASE_NAME, Chain
from roles.config import CONFIG_NAME, ConfigError, NodeConfig, read_config, read_genesis
from roles.durable import DurableWriter, StoreFailed
from roles.engine.pool import open_pool
from roles.engine.remote.engine import open_engine
from roles.eventlog import EventLog
from roles.inbox import Inbox
from roles.journal import Journal, get_settled, overlay
from roles.keystore import PURPOSES, get_place, read_key, read_keys
from roles.models import find_model
from roles.node_parts import Core, Equipment
from roles.peers_file import FILE_NAME as PEERS_NAME
from roles.peers_file import PeersDamaged, read_peers
from roles.recovery import read_pending
from roles.role import VoteHistory
from roles.store.bucket import NoBucketLibrary
from roles.store.receiving import StoreDesk
from roles.store.store import open_blocks, open_store
from roles.timers import WallClock
from roles.votelog import VoteLog, open_vote_log

log = structlog.get_logger()

HALF_WRITTEN = (
    ".*.json.*",
    ".restart*.*",
    "receipts/.*.receipt.*",  # of `rolemesh infer`
    *(f"keys/.{purpose}.*" for purpose in PURPOSES),
)
LISTEN_HINT = "set listen in node.json to an address of this machine and a free port, or to port 0"


@dataclass(frozen=True)
class Plan:
    """What a data directory says its node is."""

    directory: Path
    config: NodeConfig
    genesis: Genesis
    chain: bytes
    node_key: PrivateKey  # the libp2p identity too
    keys: ce.NodeKeys


def sweep(directory: Path) -> None:
    """Remove half-written files a killed process left. Only for who holds the directory's lock."""
    for pattern in HALF_WRITTEN:
        for path in directory.glob(pattern):
            path.unlink(missing_ok=True)


def read_plan(directory: Path, passphrase: str | None = None) -> Plan:
    """Read and check configuration, genesis and keys, sealed ones with their passphrase. Raises ConfigError."""
    config = read_config(directory)
    genesis = read_genesis(directory)
    chain = compute_chain_id(genesis)
    place = get_place(chain, genesis.name)
    keys = read_keys(directory, place, passphrase)
    return Plan(directory, config, genesis, chain, read_key(directory, "node", place), keys)


@asynccontextmanager
async def open_equipment(
    plan: Plan, make_core: Callable[[Plan, ce.Restored], Core]
) -> AsyncIterator[tuple[Equipment, Libp2pNet]]:
    """Everything open, in an order in which each failure is clear; closed again in reverse. Raises UserError.

    The network comes a second time, with what only whoever runs the node may do to it.
    """
    inbox = Inbox()
    with (
        closing(_open_chain(plan)) as chain,
        _open_events(plan) as events,
        _open_votes(plan) as (votes, history),
        ExitStack() as stack,
    ):
        restored = _restore(chain)
        journal = stack.enter_context(_open_journal(plan, restored))
        restored = replace(restored, kv=overlay(restored.kv, journal.left))
        decided = restored.state if restored.state is not None else build_state(plan.genesis)
        restarts = read_pending(plan.directory, decided)
        core = make_core(plan, replace(restored, votes=history, restarts=restarts))
        blobs = _open_blobs(plan)
        log_votes = None if votes is None else votes.write
        writer = DurableWriter(chain, journal, blobs.put, log_votes)
        kept = _open_kept(plan)

        async def load_blob(digest: bytes) -> bytes:
            return await trio.to_thread.run_sync(find_blob, blobs, kept, digest)

        # Inputs and outputs of a worker's jobs are nobody else's; what a storage node holds is for all.
        for_peers = partial(find_blob, blobs, kept) if "storage" in plan.config.roles else kept
        desk = StoreDesk(partial(open_store, plan.directory, plan.config), for_peers)
        stack.callback(desk.close)
        async with (
            open_pool(load_blob, workers=plan.config.engine_workers, probes=_runs_models(plan)) as pool,
            open_engine(
                pool, plan.config.backends, lambda name: find_model(core.ledger, name), plan.keys.node.public.hex()[:16]
            ) as engine,
            _open_net(plan, inbox.put_from_net) as net,
        ):
            equipment = Equipment(
                core=core,
                net=net,
                engine=engine,
                writer=writer,
                load_blob=load_blob,
                find_receipt=chain.find_receipt,
                store=desk.do,
                events=events,
                clock=WallClock(),
                addresses=net.announced,
                inbox=inbox,
            )
            yield equipment, net


def parse_listen(text: str) -> tuple[str, int]:
    """Host and port of a multiaddr to listen on; port 0 picks a free one. Raises ConfigError.

    >>> parse_listen("/ip4/127.0.0.1/tcp/0")
    ('127.0.0.1', 0)
    """
    parts = text.split("/")
    try:
        if len(parts) != 5 or parts[0] or parts[1] not in ("ip4", "ip6") or parts[3] != "tcp":
            raise ValueError("not of the form /ip4/HOST/tcp/PORT")
        host, port = ipaddress.ip_address(parts[2]), int(parts[4])
        if not 0 <= port < 65_536:
            raise ValueError(f"port {port} is not from 0 to 65535")
    except ValueError as error:
        raise ConfigError(f"cannot listen on {text!r}: {error}", LISTEN_HINT) from error
    return str(host), port


def _runs_models(plan: Plan) -> bool:
    return bool({"inference", "verifier"} & set(plan.config.roles))


@asynccontextmanager
async def _open_net(plan: Plan, on_event: Callable[[NetEvent], None]) -> AsyncIterator[Libp2pNet]:
    config = plan.config
    host, port = parse_listen(config.listen)
    options = NetOptions(
        limits=HostLimits(trusted=config.trusted),
        memory=read_peers(plan.directory),
        announce=config.announce,
        dial_back=must_be_reachable(config),
        direct={parse_node(peer.node): peer.addresses for peer in config.direct},
        peer_exchange=config.peer_exchange,
    )
    async with AsyncExitStack() as stack:
        try:
            net = await stack.enter_async_context(open_libp2p_net(plan.node_key.seed, host, port, on_event, options))
        except CannotListen as error:
            raise ConfigError(str(error), LISTEN_HINT) from error
        except MemoryDamaged as error:
            raise PeersDamaged(plan.directory / PEERS_NAME, error) from error
        yield net


def must_be_reachable(config: NodeConfig) -> bool:
    """Whether peers have to dial a node back before it serves.

    >>> must_be_reachable(NodeConfig("n", ("inference",))), must_be_reachable(
    ...     NodeConfig("n", ("inference",), announce=("/ip4/192.0.2.7/tcp/4001",)))
    (False, True)
    """
    if config.reachability != "auto":
        return config.reachability == "dial-back"
    return not all(is_loopback(text) for text in config.announce or (config.listen,))


@contextmanager
def _open_events(plan: Plan) -> Iterator[EventLog]:
    try:
        events = EventLog(plan.directory, plan.config.name)
    except OSError as error:
        raise StoreFailed(error) from error
    try:
        yield events
    finally:
        _close_events(events)


def _close_events(events: EventLog) -> None:
    """Last lines that cannot be written are said, and hide no graver error that may be on its way up."""
    try:
        events.close()
    except OSError as error:
        log.error("events.lost", error=str(error))


def _open_chain(plan: Plan) -> Chain:
    try:
        return Chain(plan.directory / DATABASE_NAME, plan.chain, plan.config.keep_blocks)
    except sqlite3.Error as error:
        raise StoreFailed(error) from error


@contextmanager
def _open_votes(plan: Plan) -> Iterator[tuple[VoteLog | None, VoteHistory]]:
    """A validator's vote log with what it held."""
    if plan.keys.vote is None:
        yield None, VoteHistory()
        return
    try:
        votes, history = open_vote_log(plan.directory, plan.chain, plan.keys.vote.public)
    except OSError as error:
        raise StoreFailed(error) from error
    with closing(votes):
        yield votes, history


def _restore(chain: Chain) -> ce.Restored:
    try:
        return chain.start()
    except sqlite3.Error as error:
        raise StoreFailed(error) from error


@contextmanager
def _open_journal(plan: Plan, restored: ce.Restored) -> Iterator[Journal]:
    try:
        journal = Journal(plan.directory, get_settled(restored.kv))
    except OSError as error:
        raise StoreFailed(error) from error
    with closing(journal):
        if journal.torn_bytes:
            log.warning("journal.torn", left_out_bytes=journal.torn_bytes)
        yield journal


def find_blob(blobs: BlobStore, kept: Callable[[bytes], bytes], digest: bytes) -> bytes:
    """A block that the node works with, or that somebody keeps in its store. MissingBlob when it is in neither."""
    try:
        return blobs.get(digest)
    except MissingBlob:
        return kept(digest)


def _open_kept(plan: Plan) -> Callable[[bytes], bytes]:
    """Reads the blocks of what people keep here."""
    try:
        return open_blocks(plan.directory, plan.config)
    except NoBucketLibrary as error:
        hint = f"or take store_bucket out of {plan.directory / CONFIG_NAME}"
        raise ConfigError(str(error), hint) from error
    except OSError as error:
        raise StoreFailed(error) from error


def _open_blobs(plan: Plan) -> BlobStore:
    try:
        return BlobStore(plan.directory / "blobs")
    except OSError as error:
        raise StoreFailed(error) from error
