"""A state being changed: reads fall through to the old one, writes stay here until `freeze`.

Everything written can be taken back to a mark, so a transaction that fails half-way leaves nothing behind.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Generic, TypeVar

from protocol.codec import encode
from protocol.errors import InsufficientBalance
from protocol.fast_dataclass import fast_dataclass
from protocol.ledger.app_records import AppRecord, AppUse, PassRecord
from protocol.ledger.dispute_records import Dispute, ProvenWrong
from protocol.ledger.errors import LimitReached
from protocol.ledger.feed_records import CandlePage, FeedState, FeedTerms, Observer
from protocol.ledger.flows import Flow, Party, Source
from protocol.ledger.governance_records import Ballot, Enclave, Proposal
from protocol.ledger.job_records import Batch, Channel, Check, Demand, Job, Pending, Withheld
from protocol.ledger.lease_records import Lease, Offer
from protocol.ledger.model_records import ModelName, ModelRecord
from protocol.ledger.records import (
    NO_WORK,
    Account,
    Delegation,
    DueItem,
    EpochSnapshot,
    KeyOwner,
    NodeRecord,
    Onion,
    Pool,
    RestartRecord,
    Tombstone,
    Unbonding,
    Vesting,
    WorkCount,
)
from protocol.ledger.rows import update_tree
from protocol.ledger.state import TABLES, RowChange, State, Table
from protocol.ledger.workflow_records import Run, Workflow
from protocol.types import INT_MAX

K = TypeVar("K")
V = TypeVar("V")
_NO_ACCOUNT = Account(0, 0)
_UNTOUCHED: Any = object()  # an entry that is as it was


class _Changes:
    """What was written to one table, and how many entries it has with that. A None stands for an entry that is gone."""

    __slots__ = ("count", "entries")

    def __init__(self, count: int) -> None:
        self.entries: dict[Any, Any] = {}
        self.count = count

    def take_back(self, key: Any, before: Any, count: int) -> None:
        self.count = count
        if before is _UNTOUCHED:
            del self.entries[key]
        else:
            self.entries[key] = before


# For each write its table, the key, what was written there before, and the count before. It must not know the overlays,
# which know it: drafts are made by the hundred a second, and each would be garbage that only the collector frees.
UndoLog = list[tuple[_Changes, Any, Any, int]]


class Overlay(Generic[K, V]):
    """One table of a draft. Iteration is in key order, whatever order entries came in."""

    __slots__ = ("_base", "_changes", "_undo")  # a draft makes one for each table

    def __init__(self, base: Mapping[K, V], undo: UndoLog) -> None:
        self._base = base
        self._undo = undo
        self._changes = _Changes(len(base))

    def __len__(self) -> int:
        return self._changes.count

    def get(self, key: K) -> V | None:
        value: V | None = self._changes.entries.get(key, _UNTOUCHED)
        return self._base.get(key) if value is _UNTOUCHED else value

    def put(self, key: K, value: V) -> None:
        self._write(key, value)

    def delete(self, key: K) -> None:
        self._write(key, None)

    def items(self) -> Iterator[tuple[K, V]]:
        for key in sorted(self._base.keys() | self._changes.entries.keys()):  # type: ignore[type-var]
            value = self.get(key)
            if value is not None:
                yield key, value

    def items_under(self: "Overlay[bytes, V]", prefix: bytes) -> Iterator[tuple[bytes, V]]:
        """Entries whose keys begin so, in key order."""
        for key in sorted(key for key in self._base.keys() | self._changes.entries.keys() if key.startswith(prefix)):
            value = self.get(key)
            if value is not None:
                yield key, value

    def list_changes(self, table: Table) -> Iterator[RowChange]:
        """What was written, as rows, by key."""
        for key, record in sorted(self._changes.entries.items(), key=lambda change: table.key_to_bytes(change[0])):
            yield table.name, table.key_to_bytes(key), None if record is None else encode(record)

    @property
    def is_changed(self) -> bool:
        return bool(self._changes.entries)

    def freeze(self) -> Mapping[K, V]:
        """The table with all changes."""
        merged = {**self._base, **self._changes.entries}
        return {key: value for key, value in merged.items() if value is not None}

    def _write(self, key: K, value: V | None) -> None:
        changes = self._changes
        before = changes.entries.get(key, _UNTOUCHED)
        self._undo.append((changes, key, before, changes.count))
        held = self._base.get(key) if before is _UNTOUCHED else before
        changes.count += (value is not None) - (held is not None)
        changes.entries[key] = value


@fast_dataclass(frozen=True)
class Mark:
    """A point to go back to."""

    writes: int
    treasury: int
    burned: int
    fees: int
    tips: int
    units: int
    flows: int


class Draft:
    """The state after some of a block. `time_ms` and `height` are the new block's already."""

    def __init__(self, base: State, height: int, time_ms: int) -> None:
        self.base = base
        self.params = base.params  # a vote's coming into force may change them, before any transaction
        self.height = height
        self.time_ms = time_ms
        self.epoch = base.epoch
        self.treasury = base.treasury
        self.burned = base.burned
        self.base_fee = base.base_fee
        self.seed = base.seed
        self.revealer = base.revealer
        self.fees = self.tips = 0  # of this block's transactions so far, until they are divided
        self.units = 0
        self.flows: list[Flow] = []
        self.is_epoch_over = False  # set by the due queue; the change itself ends the block
        self._undo: UndoLog = []
        self.accounts: Overlay[bytes, Account] = Overlay(base.accounts, self._undo)
        self.nodes: Overlay[bytes, NodeRecord] = Overlay(base.nodes, self._undo)
        self.node_owners: Overlay[bytes, KeyOwner] = Overlay(base.node_owners, self._undo)
        self.vote_owners: Overlay[bytes, KeyOwner] = Overlay(base.vote_owners, self._undo)
        self.unbonding: Overlay[bytes, Unbonding] = Overlay(base.unbonding, self._undo)
        self.delegations: Overlay[bytes, Delegation] = Overlay(base.delegations, self._undo)
        self.pools: Overlay[bytes, Pool] = Overlay(base.pools, self._undo)
        self.channels: Overlay[bytes, Channel] = Overlay(base.channels, self._undo)
        self.vesting: Overlay[bytes, Vesting] = Overlay(base.vesting, self._undo)
        self.pending: Overlay[bytes, Pending] = Overlay(base.pending, self._undo)
        self.jobs: Overlay[bytes, Job] = Overlay(base.jobs, self._undo)
        self.batches: Overlay[bytes, Batch] = Overlay(base.batches, self._undo)
        self.checks: Overlay[bytes, Check] = Overlay(base.checks, self._undo)
        self.disputes: Overlay[bytes, Dispute] = Overlay(base.disputes, self._undo)
        self.withheld: Overlay[bytes, Withheld] = Overlay(base.withheld, self._undo)
        self.demands: Overlay[bytes, Demand] = Overlay(base.demands, self._undo)
        self.work: Overlay[bytes, WorkCount] = Overlay(base.work, self._undo)
        self.wrong: Overlay[bytes, ProvenWrong] = Overlay(base.wrong, self._undo)
        self.onions: Overlay[bytes, Onion] = Overlay(base.onions, self._undo)
        self.tombstones: Overlay[bytes, Tombstone] = Overlay(base.tombstones, self._undo)
        self.restarts: Overlay[int, RestartRecord] = Overlay(base.restarts, self._undo)
        self.due: Overlay[bytes, DueItem] = Overlay(base.due, self._undo)
        self.epochs: Overlay[int, EpochSnapshot] = Overlay(base.epochs, self._undo)
        self.models: Overlay[bytes, ModelRecord] = Overlay(base.models, self._undo)
        self.model_names: Overlay[str, ModelName] = Overlay(base.model_names, self._undo)
        self.feeds: Overlay[str, FeedState] = Overlay(base.feeds, self._undo)
        self.offers: Overlay[bytes, Offer] = Overlay(base.offers, self._undo)
        self.leases: Overlay[bytes, Lease] = Overlay(base.leases, self._undo)
        self.feed_terms: Overlay[str, FeedTerms] = Overlay(base.feed_terms, self._undo)
        self.observers: Overlay[bytes, Observer] = Overlay(base.observers, self._undo)
        self.candles: Overlay[bytes, CandlePage] = Overlay(base.candles, self._undo)
        self.workflows: Overlay[bytes, Workflow] = Overlay(base.workflows, self._undo)
        self.runs: Overlay[bytes, Run] = Overlay(base.runs, self._undo)
        self.proposals: Overlay[bytes, Proposal] = Overlay(base.proposals, self._undo)
        self.ballots: Overlay[bytes, Ballot] = Overlay(base.ballots, self._undo)
        self.enclaves: Overlay[bytes, Enclave] = Overlay(base.enclaves, self._undo)
        self.apps: Overlay[str, AppRecord] = Overlay(base.apps, self._undo)
        self.passes: Overlay[bytes, PassRecord] = Overlay(base.passes, self._undo)
        self.app_uses: Overlay[bytes, AppUse] = Overlay(base.app_uses, self._undo)

    def mark(self) -> Mark:
        return Mark(len(self._undo), self.treasury, self.burned, self.fees, self.tips, self.units, len(self.flows))

    def go_back(self, mark: Mark) -> None:
        """Take back everything written since `mark`."""
        while len(self._undo) > mark.writes:
            changes, key, before, count = self._undo.pop()
            changes.take_back(key, before, count)
        self.treasury, self.burned = mark.treasury, mark.burned
        self.fees, self.tips, self.units = mark.fees, mark.tips, mark.units
        del self.flows[mark.flows :]

    def freeze(self, block_id: bytes) -> State:
        """The finished state. Only what changed is encoded again."""
        tables: dict[str, Any] = {}
        changes: list[RowChange] = []
        for table in TABLES:
            overlay: Overlay[Any, Any] = getattr(self, table.name)
            if overlay.is_changed:
                tables[table.name] = overlay.freeze()
                changes += overlay.list_changes(table)
        return replace(
            self.base,
            height=self.height,
            block_id=block_id,
            time_ms=self.time_ms,
            params=self.params,
            epoch=self.epoch,
            treasury=self.treasury,
            burned=self.burned,
            base_fee=self.base_fee,
            seed=self.seed,
            revealer=self.revealer,
            tree=update_tree(self.base.tree, changes),
            changes=tuple(changes),
            flows=tuple(self.flows),
            **tables,
        )

    # Money. Amounts in grains; the supply bounds every sum, so none overflows.

    def credit(self, account: bytes, amount: int) -> None:
        """Add to a balance. LimitReached when that takes one account more than the ledger holds."""
        if not amount:
            return
        known = self.accounts.get(account)
        if known is None and len(self.accounts) >= self.params.accounts_max:
            raise LimitReached("accounts", len(self.accounts), self.params.accounts_max)
        known = known or _NO_ACCOUNT
        self.accounts.put(account, Account(known.balance + amount, known.nonce))

    def debit(self, account: bytes, amount: int) -> None:
        """Take from a balance. InsufficientBalance when it is too small."""
        known = self.accounts.get(account) or _NO_ACCOUNT
        if known.balance < amount:
            raise InsufficientBalance(known.balance, amount)
        if amount:
            self.accounts.put(account, Account(known.balance - amount, known.nonce))

    # What is paid, and for what. Whoever pays says so.

    def tell(self, source: Source, party: Party, amount: int, account: bytes = b"", subject: bytes = b"") -> None:
        """Note what is paid, or held back for sure, in another way than by the three below."""
        if amount:
            self.flows.append(Flow(source, party, amount, account, subject))

    def earn(self, source: Source, party: Party, account: bytes, amount: int, subject: bytes = b"") -> None:
        """Pay an account. LimitReached as `credit`."""
        self.credit(account, amount)
        self.tell(source, party, amount, account, subject)

    def fund(self, source: Source, amount: int, subject: bytes = b"") -> None:
        """Pay the treasury."""
        self.treasury += amount
        self.tell(source, Party.TREASURY, amount, subject=subject)

    def burn(self, source: Source, amount: int, subject: bytes = b"") -> None:
        self.burned += amount
        self.tell(source, Party.BURN, amount, subject=subject)

    def count_work(self, account: bytes, **more: int) -> None:
        """Add to what is known of a node's work: fields of WorkCount by name."""
        known = self.work.get(account) or NO_WORK
        counts = {name: min(getattr(known, name) + amount, INT_MAX) for name, amount in more.items() if amount}
        if counts or self.work.get(account) is None:
            self.work.put(account, replace(known, **counts))

    # Future work

    def plan(self, item: DueItem) -> None:
        self.due.put(compute_due_key(item), item)

    def call_off(self, kind: int, item_id: bytes) -> None:
        """What this item would have waited for has come: it shall not wake anybody for nothing."""
        for key, item in self.due.items():
            if item.kind == kind and item.id == item_id:
                self.due.delete(key)
                return

    def find_node(self, node: bytes) -> NodeRecord | None:
        owner = self.node_owners.get(node)
        return None if owner is None else self.nodes.get(owner.account)


def compute_due_key(item: DueItem) -> bytes:
    """Sorts the due queue: time, then kind, then id."""
    return item.time_ms.to_bytes(8, "big") + item.kind.to_bytes(2, "big") + item.id
