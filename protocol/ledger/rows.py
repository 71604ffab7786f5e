"""A state as rows, for the disk: one per entry of a table, and one part for all that is in no table."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from protocol.codec import decode, encode
from protocol.errors import MalformedMessage
from protocol.fast_dataclass import fast_dataclass
from protocol.ledger.params import Params
from protocol.ledger.state import (
    TABLES,
    Row,
    RowChange,
    State,
    StateHead,
    compute_record_digest,
    compute_tree_key,
    get_head,
)
from protocol.ledger.tree import Tree, update
from protocol.types import Digest

_TABLES = {table.name: table for table in TABLES}


@fast_dataclass(frozen=True)
class Frame:
    """All of a state that is in no table."""

    block_id: Digest
    head: StateHead
    params: Params


def encode_frame(state: State) -> bytes:
    return encode(Frame(state.block_id, get_head(state), state.params))


def list_rows(tables: Mapping[str, Mapping[Any, Any]]) -> Iterator[Row]:
    """Every entry, by table and key."""
    for table in TABLES:
        entries = ((table.key_to_bytes(key), record) for key, record in tables[table.name].items())
        for key, record in sorted(entries, key=lambda entry: entry[0]):
            yield table.name, key, encode(record)


def list_state_rows(state: State) -> Iterator[Row]:
    """Every entry of a state, by table and key."""
    return list_rows({table.name: getattr(state, table.name) for table in TABLES})


def update_tree(tree: Tree, changes: Iterable[RowChange]) -> Tree:
    """The tree with these rows put in or taken away."""
    digests = {
        compute_tree_key(table, key): None if record is None else compute_record_digest(record)
        for table, key, record in changes
    }
    return update(tree, digests)


def restore_state(frame: bytes, rows: Iterable[Row]) -> State:
    """The state that `encode_frame` and `list_rows` were made from. MalformedMessage for anything else.

    Whether it is the right one its root tells.
    """
    read = decode(Frame, frame)
    tables: dict[str, Any] = {table.name: {} for table in TABLES}
    kept = list(rows)
    for name, key, record in kept:
        if name not in tables:
            raise MalformedMessage(f"a state has no table {name!r}")
        tables[name][_read_key(name, key)] = decode(_TABLES[name].record, record)
    if sum(map(len, tables.values())) != len(kept):
        raise MalformedMessage("a state holds one entry twice")
    return State(block_id=read.block_id, params=read.params, tree=update_tree(None, kept), **vars(read.head), **tables)


def _read_key(name: str, data: bytes) -> Any:
    table = _TABLES[name]
    try:
        key = table.key_from_bytes(data)
        is_canonical = table.key_to_bytes(key) == data
    except (UnicodeDecodeError, OverflowError):
        is_canonical = False
    if not is_canonical:
        raise MalformedMessage(f"table {name} has no key {data.hex()}")
    return key
