"""The whole state of the ledger at one height, and the one hash that stands for it.

A state is frozen: applying a block gives a new one (`draft`). The root is over its head, its params and the root of a
Merkle tree that holds every entry of every table (`tree`), which a block pays for entry by entry.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import field
from functools import lru_cache
from typing import Any

from protocol.codec import encode
from protocol.fast_dataclass import fast_dataclass
from protocol.ledger.app_records import AppRecord, AppUse, PassRecord
from protocol.ledger.dispute_records import Dispute, ProvenWrong
from protocol.ledger.feed_records import CandlePage, FeedState, FeedTerms, Observer
from protocol.ledger.flows import Flow
from protocol.ledger.governance_records import Ballot, Enclave, Proposal
from protocol.ledger.job_records import Batch, Channel, Check, Demand, Job, Pending, Withheld
from protocol.ledger.lease_records import Lease, Offer
from protocol.ledger.model_records import ModelName, ModelRecord
from protocol.ledger.params import Params
from protocol.ledger.records import (
    Account,
    Delegation,
    DueItem,
    EpochSnapshot,
    KeyOwner,
    NodeRecord,
    Onion,
    Pool,
    RestartRecord,
    Tip,
    Tombstone,
    Unbonding,
    Vesting,
    WorkCount,
)
from protocol.ledger.tree import Tree, get_root
from protocol.ledger.workflow_records import Run, Workflow
from protocol.signing import compute_domain_prefix
from protocol.types import ChainId, Digest, Grains, TimeMs, Whole

_ROOT_PREFIX = compute_domain_prefix("state")
_NO_ACCOUNT = Account(0, 0)


@fast_dataclass(frozen=True)
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


# A table's name is part of its entries' keys in the tree.
TABLES = (
    Table("accounts", Account),
    Table("nodes", NodeRecord),
    Table("node_owners", KeyOwner),
    Table("vote_owners", KeyOwner),
    Table("unbonding", Unbonding),
    Table("delegations", Delegation),
    Table("pools", Pool),
    Table("channels", Channel),
    Table("vesting", Vesting),
    Table("pending", Pending),
    Table("jobs", Job),
    Table("batches", Batch),
    Table("checks", Check),
    Table("disputes", Dispute),
    Table("withheld", Withheld),
    Table("demands", Demand),
    Table("work", WorkCount),
    Table("wrong", ProvenWrong),
    Table("onions", Onion),
    Table("tombstones", Tombstone),
    Table("restarts", RestartRecord, int),
    Table("due", DueItem),
    Table("epochs", EpochSnapshot, int),
    Table("models", ModelRecord),
    Table("model_names", ModelName, str),
    Table("feeds", FeedState, str),
    Table("offers", Offer),
    Table("leases", Lease),
    Table("feed_terms", FeedTerms, str),
    Table("observers", Observer),
    Table("candles", CandlePage),
    Table("workflows", Workflow),
    Table("runs", Run),
    Table("proposals", Proposal),
    Table("ballots", Ballot),
    Table("enclaves", Enclave),
    Table("apps", AppRecord, str),
    Table("passes", PassRecord),
    Table("app_uses", AppUse),
)


# One entry of a table as bytes: the table's name, key and record; without a record it is taken away.
Row = tuple[str, bytes, bytes]
RowChange = tuple[str, bytes, bytes | None]


@fast_dataclass(frozen=True)
class StateHead:
    """Everything in the state that is not a table, as it enters the root."""

    chain: ChainId
    height: Whole
    time_ms: TimeMs
    genesis_ms: TimeMs
    seed: Digest
    epoch: Whole
    supply: Grains
    treasury: Grains
    burned: Grains
    base_fee: Grains
    revealer: Tip


@fast_dataclass(frozen=True)
class State:
    """The ledger after block `height`. `block_id` is that block's and the only thing the root does not cover.

    After a restart it is the restart's id, until the next block.

    `tree` must fit the tables: states are made by genesis, `Draft.freeze` and `restore_state` alone. `changes` are the
    rows in which this state differs from the one before it, `flows` what was paid on the way.
    """

    chain: bytes
    height: int
    block_id: bytes
    time_ms: int
    genesis_ms: int
    seed: bytes  # a new one with every block (`randomness`)
    params: Params
    epoch: int
    supply: int
    treasury: int
    burned: int
    base_fee: int  # a unit, of a block that follows at once (`fees.compute_base_fee`)
    revealer: bytes  # who built the last block, if it revealed; else empty
    accounts: Mapping[bytes, Account]
    nodes: Mapping[bytes, NodeRecord]  # by account
    node_owners: Mapping[bytes, KeyOwner]  # by node key, former ones until no kept epoch knows them
    vote_owners: Mapping[bytes, KeyOwner]  # by vote key, likewise
    unbonding: Mapping[bytes, Unbonding]  # by the id of the transaction that began it
    delegations: Mapping[bytes, Delegation]  # by compute_delegation_key
    pools: Mapping[bytes, Pool]  # by validator's account
    channels: Mapping[bytes, Channel]
    vesting: Mapping[bytes, Vesting]
    pending: Mapping[bytes, Pending]  # by the id of the settlement
    jobs: Mapping[bytes, Job]  # by the id of the transaction that opened it
    batches: Mapping[bytes, Batch]  # by the id of the transaction that settled it
    checks: Mapping[bytes, Check]  # by compute_check_key
    disputes: Mapping[bytes, Dispute]  # by the id of the transaction that opened it
    withheld: Mapping[bytes, Withheld]  # by withheld.compute_challenge_key
    demands: Mapping[bytes, Demand]  # by claim id
    work: Mapping[bytes, WorkCount]  # by worker's account
    wrong: Mapping[bytes, ProvenWrong]  # by claim id
    onions: Mapping[bytes, Onion]  # by validator's account
    tombstones: Mapping[bytes, Tombstone]  # by validator's account
    restarts: Mapping[int, RestartRecord]  # by generation
    due: Mapping[bytes, DueItem]  # by compute_due_key
    epochs: Mapping[int, EpochSnapshot]
    models: Mapping[bytes, ModelRecord]  # by digest
    model_names: Mapping[str, ModelName]
    feeds: Mapping[str, FeedState]
    offers: Mapping[bytes, Offer]  # by account
    leases: Mapping[bytes, Lease]  # by leases.compute_lease_id
    feed_terms: Mapping[str, FeedTerms]
    observers: Mapping[bytes, Observer]  # by feeds.compute_observer_key
    candles: Mapping[bytes, CandlePage]  # by candles.compute_page_key
    workflows: Mapping[bytes, Workflow]  # by the key of their feed
    runs: Mapping[bytes, Run]  # by the id of their job
    proposals: Mapping[bytes, Proposal]  # by the id of the transaction that made it
    ballots: Mapping[bytes, Ballot]  # by the proposal's id and the key of the node or delegation whose stake it is
    enclaves: Mapping[bytes, Enclave]  # those trusted by vote, by compute_enclave_key
    apps: Mapping[str, AppRecord]
    passes: Mapping[bytes, PassRecord]  # by apps.compute_pass_key
    app_uses: Mapping[bytes, AppUse]  # by apps.compute_use_key
    tree: Tree = field(repr=False, compare=False)
    changes: tuple[RowChange, ...] = field(default=(), repr=False, compare=False)
    flows: tuple[Flow, ...] = field(default=(), repr=False, compare=False)

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
        """The record of whoever has, or lately had, a node key."""
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
    delegated = sum(entry.amount for entry in state.delegations.values())
    vesting = sum(entry.amount - entry.released for entry in state.vesting.values())
    rewards = sum(pool.rewards for pool in state.pools.values())
    channels = sum(channel.deposit - channel.paid for channel in state.channels.values())
    pending = sum(
        sum(share.amount for share in entry.shares) + entry.treasury + entry.burn for entry in state.pending.values()
    )
    jobs = sum(job.amount for job in state.jobs.values())
    batches = sum(batch.total - sum(run.returned for run in batch.runs) for batch in state.batches.values())
    disputes = sum(dispute.bond for dispute in state.disputes.values())
    withheld = sum(challenge.fee for challenge in state.withheld.values())
    demands = sum(demand.fee for demand in state.demands.values())
    models = sum(model.deposit for model in state.models.values())
    leases = sum(lease.balance for lease in state.leases.values())
    feeds = sum(terms.deposit for terms in state.feed_terms.values())
    workflows = sum(workflow.budget for workflow in state.workflows.values())
    stakes = bonded + delegated + rewards + unbonding
    proposals = sum(proposal.deposit for proposal in state.proposals.values())
    apps = sum(app.deposit for app in state.apps.values())
    held = channels + pending + jobs + batches + disputes + withheld + demands + models + leases + feeds + workflows
    return liquid + vesting + stakes + held + proposals + apps + state.treasury + state.burned


def compute_state_root(state: State) -> bytes:
    """The root of a state: see `compute_root`."""
    return compute_root(get_head(state), compute_params_digest(state.params), get_root(state.tree))


def compute_root(head: StateHead, params_digest: bytes, tree_root: bytes) -> bytes:
    """sha256 over domain, the head's digest, the params' digest and the root of the tree."""
    return hashlib.sha256(_ROOT_PREFIX + hashlib.sha256(encode(head)).digest() + params_digest + tree_root).digest()


@lru_cache(maxsize=8)  # the same for every block of a chain
def compute_params_digest(params: Params) -> bytes:
    return hashlib.sha256(encode(params)).digest()


def compute_tree_key(table: str, key: bytes) -> bytes:
    """Where an entry stands in the tree."""
    return hashlib.sha256(table.encode() + b"\0" + key).digest()


def compute_enclave_key(enclave: Enclave) -> bytes:
    return hashlib.sha256(encode(enclave)).digest()


def compute_record_digest(record: bytes) -> bytes:
    """What the tree holds of an encoded record."""
    return hashlib.sha256(record).digest()


def get_head(state: State) -> StateHead:
    return StateHead(
        state.chain,
        state.height,
        state.time_ms,
        state.genesis_ms,
        state.seed,
        state.epoch,
        state.supply,
        state.treasury,
        state.burned,
        state.base_fee,
        state.revealer,
    )
