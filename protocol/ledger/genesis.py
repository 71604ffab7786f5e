"""Where a ledger begins: who has what, who does what, by which parameters. Its hash names the chain."""

import hashlib
import json
import typing
from dataclasses import fields, is_dataclass
from typing import Annotated, Any

from protocol.codec import encode, get_field_types
from protocol.errors import LocalError, MalformedMessage
from protocol.fast_dataclass import fast_dataclass
from protocol.keys import KEY_SIZE, format_account, format_node, parse_account, parse_node
from protocol.ledger.block import HEADER_TIME_MS_MAX, VOTES_MAX
from protocol.ledger.draft import compute_due_key
from protocol.ledger.epochs import EPOCH_KIND, ORACLE, compute_epoch_seed, take_snapshot
from protocol.ledger.feed_records import FeedRecord, FeedState, Observer
from protocol.ledger.feeds import build_genesis_terms, compute_observer_key
from protocol.ledger.limits import OBSERVERS_MAX
from protocol.ledger.model_records import ModelName, ModelRecord, TensorSpec
from protocol.ledger.models import explain_calibration
from protocol.ledger.params import DELAY_MS_MAX, Params, verify_params
from protocol.ledger.records import (
    Account,
    DueItem,
    KeyOwner,
    MaybeKey,
    ModelDigests,
    NodeRecord,
    Onion,
    RoleNames,
    Tip,
    Vesting,
    VoteKey,
)
from protocol.ledger.rows import list_rows, update_tree
from protocol.ledger.state import TABLES, State
from protocol.ledger.vesting import VEST_KIND
from protocol.signing import compute_domain_prefix
from protocol.types import INT_MAX, AtMost, Digest, Grains, Name, PublicKey, TimeMs, Whole

__all__ = [
    "Allocation",
    "FeedRecord",
    "Genesis",
    "GenesisNode",
    "ModelRecord",
    "TensorSpec",
    "build_state",
    "compute_chain_id",
    "compute_genesis_id",
    "verify_genesis",
]

CHAIN_SIZE = 8
ENTRIES_MAX = 1_000
VESTING_PARTS_MAX = 10_000
TREASURY_NAME = "treasury"  # in JSON, instead of an account
_PREFIX = compute_domain_prefix("genesis")
_VESTING_PREFIX = compute_domain_prefix("vesting")


@fast_dataclass(frozen=True)
class Allocation:
    """What an account owns at the start. The supply is these, what vests and the treasury, for good."""

    account: PublicKey
    amount: Grains


@fast_dataclass(frozen=True)
class GenesisVesting:
    """What an account gets over time: `parts` equal parts, the first `cliff_ms` after genesis, then every `part_ms`.

    Without an account it is the treasury's: so much of the ecosystem's share votes can spend only by and by. In JSON it
    says `treasury` then.
    """

    account: MaybeKey
    amount: Grains
    cliff_ms: Whole
    part_ms: Whole
    parts: Whole


@fast_dataclass(frozen=True)
class GenesisNode:
    """A node that serves from the first block. Its bond comes out of the account's allocation."""

    account: PublicKey
    node: PublicKey
    vote: VoteKey
    roles: RoleNames
    models: ModelDigests
    price: Grains
    bond: Grains
    onion: Tip  # number 0 of its vote key; validators without one earn nothing at first


@fast_dataclass(frozen=True)
class Genesis:
    name: Name
    time_ms: TimeMs
    seed: Digest
    params: Params
    allocations: Annotated[tuple[Allocation, ...], AtMost(ENTRIES_MAX)]
    vesting: Annotated[tuple[GenesisVesting, ...], AtMost(ENTRIES_MAX)]
    treasury: Grains  # of the ecosystem's share what votes can spend from the start
    nodes: Annotated[tuple[GenesisNode, ...], AtMost(ENTRIES_MAX)]
    models: Annotated[tuple[ModelRecord, ...], AtMost(64)]
    feeds: Annotated[tuple[FeedRecord, ...], AtMost(64)]

    def to_json(self) -> str:
        """Accounts as rm1…, nodes as 12D3…, other bytes as hex. Read back by `from_json` without a loss."""
        return json.dumps(_to_json("genesis", self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> "Genesis":
        """MalformedMessage, with the field's name, for anything that is no genesis."""
        try:
            genesis: Genesis = _from_json("genesis", cls, json.loads(text))
            encode(genesis)  # the bounds
            verify_genesis(genesis)
        except (ValueError, RecursionError, LocalError, MalformedMessage) as error:
            raise MalformedMessage(f"not a genesis: {error}") from error
        return genesis


def compute_genesis_id(genesis: Genesis) -> bytes:
    """The hash of all of it; the first block's parent."""
    return hashlib.sha256(_PREFIX + encode(genesis)).digest()


def compute_chain_id(genesis: Genesis) -> bytes:
    return compute_genesis_id(genesis)[:CHAIN_SIZE]


def compute_genesis_supply(genesis: Genesis) -> int:
    vesting = sum(entry.amount for entry in genesis.vesting)
    return sum(entry.amount for entry in genesis.allocations) + vesting + genesis.treasury


def verify_genesis(genesis: Genesis) -> None:
    """ValueError for a genesis no ledger could start from."""
    verify_params(genesis.params)
    amounts = {entry.account: entry.amount for entry in genesis.allocations}
    bonds = {node.account: node.bond for node in genesis.nodes}
    votes = [node.vote for node in genesis.nodes if node.vote]
    if len(amounts) != len(genesis.allocations) or compute_genesis_supply(genesis) > INT_MAX:
        raise ValueError(f"an account is allocated twice, or the supply exceeds {INT_MAX} grains")
    for entry in genesis.vesting:
        if len(entry.account) not in (0, KEY_SIZE):
            raise ValueError(f"what vests is an account's, of {KEY_SIZE} bytes, or the treasury's: {entry}")
        if not entry.amount or not entry.part_ms or not 0 < entry.parts <= VESTING_PARTS_MAX:
            raise ValueError(f"what vests has an amount, a time and 1 to {VESTING_PARTS_MAX} parts: {entry}")
        ends_ms = entry.cliff_ms + entry.parts * entry.part_ms
        if ends_ms > DELAY_MS_MAX:
            raise ValueError(f"vesting ends {ends_ms} ms after genesis, at most {DELAY_MS_MAX} allowed")
    if len(bonds) != len(genesis.nodes) or len({node.node for node in genesis.nodes}) != len(genesis.nodes):
        raise ValueError("two nodes share an account or a node key")
    if len(votes) > VOTES_MAX:
        raise ValueError(f"{len(votes)} validators, at most {VOTES_MAX}")
    if len(set(votes)) != len(votes) or any(len(vote) != 32 for vote in votes):
        raise ValueError("vote keys are 32 bytes and no two nodes share one")
    if genesis.time_ms > HEADER_TIME_MS_MAX:
        raise ValueError(f"time_ms {genesis.time_ms} is beyond {HEADER_TIME_MS_MAX}")
    for node in genesis.nodes:
        if node.account not in amounts:
            raise ValueError(f"node {format_node(node.node)} belongs to an account without an allocation")
        if ("validator" in node.roles) != bool(node.vote):
            raise ValueError(f"node {format_node(node.node)}: validators have a vote key, others none")
        if len(node.onion) not in (0, 32) or (node.onion and not node.vote):
            raise ValueError(f"node {format_node(node.node)}: a validator's onion has a tip of 32 bytes, others none")
        if len(set(node.roles)) != len(node.roles):
            raise ValueError(f"node {format_node(node.node)} has a role twice")
        have = amounts[node.account]
        if node.bond > have:
            raise ValueError(f"node {format_node(node.node)} bonds {node.bond} grains, its account has {have}")
    if len(genesis.nodes) > genesis.params.nodes_max:
        raise ValueError(f"{len(genesis.nodes)} nodes, params.nodes_max is {genesis.params.nodes_max}")
    if len({model.digest for model in genesis.models}) != len(genesis.models):
        raise ValueError("a model stands in genesis twice")
    if len({model.name for model in genesis.models}) != len(genesis.models):
        raise ValueError("two models of genesis have one name")
    if any(model.owner or model.deposit or model.retired_ms for model in genesis.models):
        raise ValueError("a model of genesis has no owner and no deposit, and is not retired")
    for model in genesis.models:
        reason = explain_calibration(model.calibration[0]) if model.calibration else ""
        if reason or (model.exact and model.calibration):
            raise ValueError(f"model {model.name!r}: {reason or 'an exact one has no calibration'}")
    if len({feed.name for feed in genesis.feeds}) != len(genesis.feeds):
        raise ValueError("a feed stands in genesis twice")


def build_state(genesis: Genesis) -> State:
    """The state before the first block: height 0, epoch 0 drawn from genesis nodes. ValueError as `verify_genesis`."""
    verify_genesis(genesis)
    bonds = {node.account: node.bond for node in genesis.nodes}
    accounts = {entry.account: Account(entry.amount - bonds.get(entry.account, 0), 0) for entry in genesis.allocations}
    nodes = {
        node.account: NodeRecord(
            node.account, node.node, node.vote, node.roles, node.models, node.price, node.bond, changed_epoch=0
        )
        for node in genesis.nodes
    }
    for entry in genesis.vesting:
        if entry.account:
            accounts.setdefault(entry.account, Account(0, 0))  # so that there is room for it when it is released
    vesting = {
        hashlib.sha256(_VESTING_PREFIX + index.to_bytes(4, "big")).digest(): Vesting(
            entry.account, entry.amount, 0, genesis.time_ms + entry.cliff_ms, entry.part_ms, entry.parts
        )
        for index, entry in enumerate(genesis.vesting)
    }
    due = [DueItem(held.cliff_ms, VEST_KIND, key, waking=0, graced=0) for key, held in vesting.items()]
    epoch_end = DueItem(genesis.time_ms + genesis.params.epoch_ms, EPOCH_KIND, bytes(32), waking=0, graced=0)
    tables: dict[str, Any] = {table.name: {} for table in TABLES} | {
        "accounts": accounts,
        "nodes": nodes,
        "node_owners": {node.node: KeyOwner(node.account, 0) for node in genesis.nodes},
        "vote_owners": {node.vote: KeyOwner(node.account, 0) for node in genesis.nodes if node.vote},
        "vesting": vesting,
        "due": {compute_due_key(item): item for item in (epoch_end, *due)},
        "epochs": {0: take_snapshot(1, compute_epoch_seed(genesis.seed, 0), nodes, {}, (), {}, genesis.params)},
        "models": {model.digest: model for model in genesis.models},
        "model_names": {model.name: ModelName(b"", model.version, 1) for model in genesis.models},
        "onions": {node.account: Onion(node.onion, 0, b"", 0) for node in genesis.nodes if node.onion},
        "feeds": {feed.name: FeedState(0, 0, 0, 0, 0, 0) for feed in genesis.feeds},
        "feed_terms": {feed.name: build_genesis_terms(feed.name, genesis.params) for feed in genesis.feeds},
        "observers": _list_observers(genesis),
    }
    return State(
        chain=compute_chain_id(genesis),
        height=0,
        block_id=compute_genesis_id(genesis),
        time_ms=genesis.time_ms,
        genesis_ms=genesis.time_ms,
        seed=genesis.seed,
        params=genesis.params,
        epoch=0,
        supply=compute_genesis_supply(genesis),
        treasury=genesis.treasury,
        burned=0,
        base_fee=genesis.params.base_fee_min,
        revealer=b"",
        tree=update_tree(None, list_rows(tables)),
        **tables,
    )


def _list_observers(genesis: Genesis) -> dict[bytes, Observer]:
    """Every oracle of genesis observes every feed of genesis, as far as there is room."""
    oracles = [node.account for node in genesis.nodes if ORACLE in node.roles][:OBSERVERS_MAX]
    return {
        compute_observer_key(feed.name, account): Observer(account, 0) for feed in genesis.feeds for account in oracles
    }


def _to_json(name: str, value: Any) -> Any:
    if is_dataclass(value):
        return {item.name: _to_json(item.name, getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, tuple):
        return [_to_json(name, item) for item in value]
    if isinstance(value, bytes):
        return _FORMATS.get(name, bytes.hex)(value)
    return value


def _from_json(name: str, annotation: Any, value: Any) -> Any:
    kind = typing.get_args(annotation)[0] if typing.get_origin(annotation) is Annotated else annotation
    if is_dataclass(kind):
        types_ = get_field_types(typing.cast(type, kind))
        if not isinstance(value, dict) or value.keys() != types_.keys():
            raise ValueError(f"{name} wants exactly the fields {', '.join(types_)}")
        return typing.cast(type, kind)(**{key: _from_json(key, types_[key], value[key]) for key in types_})
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise ValueError(f"{name} wants a list")
        return tuple(_from_json(name, typing.get_args(kind)[0], item) for item in value)
    if kind is bytes:
        if not isinstance(value, str):
            raise ValueError(f"{name} wants text")
        return _parse_bytes(name, value)
    if type(value) is not kind:
        raise ValueError(f"{name} wants {kind.__name__}, not {type(value).__name__}")
    return value


def _parse_bytes(name: str, text: str) -> bytes:
    if name in _PARSERS:
        return _PARSERS[name](text)
    data = bytes.fromhex(text)
    if data.hex() != text:
        raise ValueError(f"{name} wants lower-case hex without spaces")
    return data


def _format_account(account: bytes) -> str:
    return format_account(account) if account else TREASURY_NAME


def _parse_account(text: str) -> bytes:
    """No key for the treasury, which an account that must have one refuses by its length."""
    return b"" if text == TREASURY_NAME else parse_account(text)


_FORMATS = {"account": _format_account, "node": format_node}
_PARSERS = {"account": _parse_account, "node": parse_node}
