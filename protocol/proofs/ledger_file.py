"""What the ledger says, as a file that anyone can check offline who holds the genesis and nothing else.

A file leads from genesis, one change of validators or restart after the other, to certified headers, and under each
shows entries of the state that are there or are not, and transactions of the block.
"""

from collections.abc import Sequence
from hashlib import sha256
from typing import Annotated

from protocol.codec import decode, encode
from protocol.errors import InvalidProof
from protocol.fast_dataclass import fast_dataclass
from protocol.ledger.block import Certificate, Header, compute_digests_root
from protocol.ledger.light import Handover, Trusted, follow, follow_restart, verify_header
from protocol.ledger.restart_terms import Restart
from protocol.ledger.settlement import SettledLeaf, collect_leaves
from protocol.ledger.state import (
    TABLES,
    State,
    StateHead,
    Table,
    compute_params_digest,
    compute_record_digest,
    compute_root,
    compute_tree_key,
    get_head,
)
from protocol.ledger.transactions import TRANSACTION_BYTES_MAX, Transaction
from protocol.ledger.tree import TreeProof, compute_proven_root, prove
from protocol.types import AtMost, Digest, Name, Whole

VERSION = 1
LEDGER_FILE_BYTES_MAX = 4 * 1024 * 1024
RECORD_BYTES_MAX = 1024 * 1024
_TABLES = {table.name: table for table in TABLES}


@fast_dataclass(frozen=True)
class EntryProof:
    """One entry of the state, or that there is none: then `record` is empty."""

    table: Name
    key: Annotated[bytes, AtMost(64)]
    record: Annotated[bytes, AtMost(RECORD_BYTES_MAX)]
    proof: TreeProof


@fast_dataclass(frozen=True)
class StateProof:
    """Entries of the state whose root a header names."""

    head: StateHead
    params_digest: Digest
    entries: Annotated[tuple[EntryProof, ...], AtMost(64)]


@fast_dataclass(frozen=True)
class TransactionProof:
    """Transactions of a block: the digests of all of them, and some whole."""

    digests: Annotated[tuple[Digest, ...], AtMost(1_000)]
    transactions: Annotated[tuple[Annotated[bytes, AtMost(TRANSACTION_BYTES_MAX)], ...], AtMost(16)]


@fast_dataclass(frozen=True)
class Section:
    """What one header shows. A list holds one proof or none."""

    header: Header
    certificate: Certificate
    state: Annotated[tuple[StateProof, ...], AtMost(1)]
    transactions: Annotated[tuple[TransactionProof, ...], AtMost(1)]


@fast_dataclass(frozen=True)
class LedgerFile:
    """`handovers`, `restarts` and `sections` are in order of height."""

    version: Whole
    handovers: Annotated[tuple[Handover, ...], AtMost(1_000)]
    restarts: Annotated[tuple[Restart, ...], AtMost(64)]
    sections: Annotated[tuple[Section, ...], AtMost(8)]


@fast_dataclass(frozen=True)
class Shown:
    """What a file has shown. `entries`, of `state_height`, are by table and key: None where there is none."""

    height: int
    time_ms: int
    state_height: int
    entries: dict[tuple[str, bytes], object | None]
    leaves: dict[tuple[bytes, int], SettledLeaf]


def decode_ledger_file(data: bytes) -> LedgerFile:
    """Read a file. MalformedMessage for anything but the canonical bytes of one."""
    return decode(LedgerFile, data, LEDGER_FILE_BYTES_MAX)


def build_state_proof(state: State, wanted: Sequence[tuple[str, bytes]]) -> StateProof:
    """Proofs of entries, by table and key bytes, against the root of `state`. KeyError for a table that is none."""
    entries = []
    for name, key in wanted:
        record = getattr(state, name).get(_TABLES[name].key_from_bytes(key))
        data = b"" if record is None else encode(record)
        entries.append(EntryProof(name, key, data, prove(state.tree, compute_tree_key(name, key))))
    return StateProof(get_head(state), compute_params_digest(state.params), tuple(entries))


def verify_ledger_file(file: LedgerFile, trusted: Trusted) -> Shown:
    """What the file shows to whoever trusts the genesis. RemoteError, with the reason, when anything does not fit."""
    if file.version != VERSION:
        raise InvalidProof(f"a ledger file of version {file.version}; this program reads version {VERSION}")
    if not file.sections:
        raise InvalidProof("a ledger file that shows nothing")
    shown = Shown(file.sections[-1].header.height, file.sections[-1].header.time_ms, 0, {}, {})
    steps = _list_steps(file)
    for section in file.sections:
        while steps and steps[0][0] < section.header.height:
            _, step = steps.pop(0)
            trusted = follow(trusted, step) if isinstance(step, Handover) else follow_restart(trusted, step)
        verify_header(trusted, section.header, section.certificate)
        shown = _add_section(shown, section)
    if steps:
        raise InvalidProof(f"a change of validators at height {steps[0][0]} that leads to nothing")
    return shown


def _list_steps(file: LedgerFile) -> list[tuple[int, Handover | Restart]]:
    """What changes those who decide after a height: its block, then the restarts that stand on it."""
    changes: list[tuple[int, int, Handover | Restart]] = [(item.header.height, 0, item) for item in file.handovers]
    restarts: list[tuple[int, int, Handover | Restart]] = [(item.terms.height, 1, item) for item in file.restarts]
    ordered = sorted([*changes, *restarts], key=lambda step: step[:2])  # stable: restarts of one height as they come
    return [(height, step) for height, _, step in ordered]


def _add_section(shown: Shown, section: Section) -> Shown:
    height, entries, leaves = shown.state_height, dict(shown.entries), dict(shown.leaves)
    for proof in section.state:
        entries |= _read_entries(proof, section.header)
        height = section.header.height
    for proven in section.transactions:
        for leaf in collect_leaves(_read_transactions(proven, section.header), section.header.height):
            leaves[leaf.channel, leaf.seq] = leaf
    return Shown(shown.height, shown.time_ms, height, entries, leaves)


def _read_entries(proof: StateProof, header: Header) -> dict[tuple[str, bytes], object | None]:
    found: dict[tuple[str, bytes], object | None] = {}
    for entry in proof.entries:
        table: Table | None = _TABLES.get(entry.table)
        if table is None:
            raise InvalidProof(f"the state has no table {entry.table!r}")
        digest = compute_record_digest(entry.record) if entry.record else None
        tree_root = compute_proven_root(compute_tree_key(entry.table, entry.key), digest, entry.proof)
        if compute_root(proof.head, proof.params_digest, tree_root) != header.state_root:
            raise InvalidProof(f"the entry of {entry.table} does not lead to the state root of height {header.height}")
        found[entry.table, entry.key] = decode(table.record, entry.record) if entry.record else None
    return found


def _read_transactions(proof: TransactionProof, header: Header) -> list[Transaction]:
    if compute_digests_root(proof.digests) != header.transactions_root:
        raise InvalidProof(f"the transactions are not those of block {header.height}")
    if any(sha256(data).digest() not in proof.digests for data in proof.transactions):
        raise InvalidProof(f"a transaction is not of block {header.height}")
    return [decode(Transaction, data) for data in proof.transactions]
