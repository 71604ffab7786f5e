"""The whole state of the ledger at one height, and the one hash that stands for it.

A state is frozen: applying a block gives a new one (`draft`). Each table's canonical bytes, sorted by key, are kept
beside it, so that a block pays only for the tables it touches. The root is over all of it.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from protocol.codec import decode, encode
from protocol.errors import MalformedMessage
from protocol.ledger.params import Params
from protocol.ledger.records import (
    Account,
    Channel,
    DueItem,
    EpochSnapshot,
    FeedState,
    ModelRecord,
    NodeOwner,
    NodeRecord,
    Pending,
    ProvenWrong,
    Unbonding,
    WorkCount,
)
from protocol.signing import compute_domain_prefix
from protocol.types import ChainId, Digest, Grains, TimeMs, Whole

_ROOT_PREFIX = compute_domain_prefix("state")
_NO_ACCOUNT = Account(0, 0)


@dataclass(frozen=True)
class Table:
    """One table of the state: its attribute, what it holds, and what its keys are (bytes, numbers or text)."""

    name: str
    record: type
    key: type = bytes

    def key_to_bytes(self, key: Any) -> bytes:
        if self.key is int:
            return int(key).to_bytes(8, "big")
        return str(key).encode() if self.key is str else bytes(key)

    def key_from_bytes(self, data: bytes) -> Any:
        if self.key is int:
            return int.from_bytes(data, "big")
        return data.decode() if self.key is str else data


# The order is part of the state root.
TABLES = (
    Table("accounts", Account),
    Table("nodes", NodeRecord),
    Table("node_owners", NodeOwner),
    Table("unbonding", Unbonding),
    Table("channels", Channel),
    Table("pending", Pending),
    Table("work", WorkCount),
    Table("wrong", ProvenWrong),
    Table("due", DueItem),
    Table("epochs", EpochSnapshot, int),
    Table("models", ModelRecord),
    Table("feeds", FeedState, str),
)


@dataclass(frozen=True)
class TableImage:
    """A table's canonical bytes and their sha256."""

    data: bytes
    digest: bytes


@dataclass(frozen=True)
class StateHead:
    """Everything in the state that is not a table, as it enters the root."""

    chain: ChainId
    height: Whole
    time_ms: TimeMs
    genesis_ms: TimeMs
    genesis_seed: Digest
    epoch: Whole
    supply: Grains
    treasury: Grains
    burned: Grains


@dataclass(frozen=True)
class State:
    """The ledger after block `height`. `block_id` is that block's and the only thing the root does not cover.

    `images` must fit the tables: states are made by genesis, `Draft.freeze` and `decode_state` alone.
    """

    chain: bytes
    height: int
    block_id: bytes
    time_ms: int
    genesis_ms: int
    genesis_seed: bytes
    params: Params
    epoch: int
    supply: int
    treasury: int
    burned: int
    accounts: Mapping[bytes, Account]
    nodes: Mapping[bytes, NodeRecord]  # by account
    node_owners: Mapping[bytes, NodeOwner]  # by node key
    unbonding: Mapping[bytes, Unbonding]  # by the id of the transaction that began it
    channels: Mapping[bytes, Channel]
    pending: Mapping[bytes, Pending]  # by the id of the settlement
    work: Mapping[bytes, WorkCount]  # by worker's account
    wrong: Mapping[bytes, ProvenWrong]  # by claim id
    due: Mapping[bytes, DueItem]  # by compute_due_key
    epochs: Mapping[int, EpochSnapshot]
    models: Mapping[bytes, ModelRecord]  # by digest
    feeds: Mapping[str, FeedState]
    images: tuple[TableImage, ...] = field(repr=False, compare=False)

    def get_balance(self, account: bytes) -> int:
        return self.accounts.get(account, _NO_ACCOUNT).balance

    def get_nonce(self, account: bytes) -> int:
        """The number the account's next transaction must carry."""
        return self.accounts.get(account, _NO_ACCOUNT).nonce

    def get_channel(self, channel: bytes) -> Channel | None:
        return self.channels.get(channel)

    def get_epoch(self, epoch: int) -> EpochSnapshot | None:
        """The snapshot of an epoch; None when it is not, or no longer, kept."""
        return self.epochs.get(epoch)

    def find_node(self, node: bytes) -> NodeRecord | None:
        """The record of a node key."""
        owner = self.node_owners.get(node)
        return None if owner is None else self.nodes.get(owner.account)

    def get_nodes(self, role: str) -> tuple[NodeRecord, ...]:
        """Registered nodes with a role and the bond it asks for, by account."""
        bond_min = self.params.get_bond_min(role)
        fitting = (self.nodes[account] for account in sorted(self.nodes))
        return tuple(node for node in fitting if role in node.roles and node.bond >= bond_min)


def compute_supply(state: State) -> int:
    """Every grain, wherever it is, with the burned ones: equals what genesis handed out, always."""
    liquid = sum(account.balance for account in state.accounts.values())
    bonded = sum(node.bond for node in state.nodes.values())
    unbonding = sum(entry.amount for entry in state.unbonding.values())
    channels = sum(channel.deposit - channel.paid for channel in state.channels.values())
    pending = sum(
        sum(share.amount for share in entry.shares) + entry.treasury + entry.burn for entry in state.pending.values()
    )
    return liquid + bonded + unbonding + channels + pending + state.treasury + state.burned


def compute_state_root(state: State) -> bytes:
    """sha256 over domain, head, params and the digest of every table."""
    hasher = hashlib.sha256(_ROOT_PREFIX)
    for part in (encode(_get_head(state)), encode(state.params)):
        hasher.update(_frame(part))
    for image in state.images:
        hasher.update(image.digest)
    return hasher.digest()


def compute_image(table: Table, records: Mapping[Any, Any]) -> TableImage:
    """A table's bytes: key and record of each entry, length first, sorted by key."""
    entries = sorted((table.key_to_bytes(key), record) for key, record in records.items())
    data = b"".join([_frame(key) + _frame(encode(record)) for key, record in entries])
    return TableImage(data, hashlib.sha256(table.name.encode() + b"\0" + data).digest())


def encode_state(state: State) -> bytes:
    """All of a state, for the disk. The same state gives the same bytes."""
    parts = [state.block_id, encode(_get_head(state)), encode(state.params), *(image.data for image in state.images)]
    return b"".join(map(_frame, parts))


def decode_state(data: bytes) -> State:
    """Read what `encode_state` wrote. MalformedMessage for anything else."""
    parts = list(_unframe(data))
    if len(parts) != 3 + len(TABLES) or len(parts[0]) != 32:
        raise MalformedMessage(f"a state has {3 + len(TABLES)} parts, not {len(parts)}")
    head, params = decode(StateHead, parts[1]), decode(Params, parts[2])
    tables: dict[str, Any] = {
        table.name: _read_table(table, part) for table, part in zip(TABLES, parts[3:], strict=True)
    }
    images = tuple(compute_image(table, tables[table.name]) for table in TABLES)
    if any(image.data != part for image, part in zip(images, parts[3:], strict=True)):
        raise MalformedMessage("a table of the state is not in canonical order")
    return State(block_id=parts[0], params=params, images=images, **vars(head), **tables)


def _get_head(state: State) -> StateHead:
    return StateHead(
        state.chain,
        state.height,
        state.time_ms,
        state.genesis_ms,
        state.genesis_seed,
        state.epoch,
        state.supply,
        state.treasury,
        state.burned,
    )


def _read_table(table: Table, data: bytes) -> dict[Any, Any]:
    parts = list(_unframe(data))
    if len(parts) % 2:
        raise MalformedMessage(f"table {table.name}: a key without its record")
    try:
        return {
            table.key_from_bytes(key): decode(table.record, record)
            for key, record in zip(parts[::2], parts[1::2], strict=True)
        }
    except UnicodeDecodeError as error:
        raise MalformedMessage(f"table {table.name}: a key is not text") from error


def _frame(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def _unframe(data: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if at + 4 + size > len(data):
            raise MalformedMessage(f"cut off at byte {len(data)}")
        yield data[at + 4 : at + 4 + size]
        at += 4 + size
