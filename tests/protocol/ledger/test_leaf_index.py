"""A leaf's number is bounded before a rule sees it: one of 2^32 had stopped whoever built a block with it."""

from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_type_hints

import msgpack
import pytest

from protocol.codec import decode, encode
from protocol.errors import LocalError, MalformedMessage
from protocol.ledger.batches import LEAVES_MAX, LeafIndex
from protocol.ledger.disputes import CheckedLeaf
from protocol.ledger.transactions import all_transactions


def find_indices(cls: type, seen: set[type]) -> list[tuple[str, Any]]:
    """The fields named `index` in a body and in what it holds, with their types."""
    if cls in seen:
        return []
    seen.add(cls)
    hints = get_type_hints(cls, include_extras=True)
    found = [(f"{cls.__name__}.index", hints["index"])] if "index" in hints else []
    for item in fields(cls):
        found += [pair for part in list_classes(hints[item.name]) for pair in find_indices(part, seen)]
    return found


def list_classes(hint: Any) -> list[type]:
    if isinstance(hint, type) and is_dataclass(hint):
        return [hint]
    return [cls for part in get_args(hint) for cls in list_classes(part)]


def test_every_index_in_a_transaction_is_one_that_a_batch_can_have() -> None:
    seen: set[type] = set()
    found = [pair for _, body in all_transactions() for pair in find_indices(body, seen)]
    assert len(found) >= 7
    assert {name for name, hint in found if hint != LeafIndex} == set()


def test_an_index_beyond_the_largest_batch_is_neither_written_nor_read() -> None:
    last = CheckedLeaf(bytes(32), LEAVES_MAX - 1)
    assert decode(CheckedLeaf, encode(last)) == last
    with pytest.raises(LocalError):
        encode(CheckedLeaf(bytes(32), LEAVES_MAX))
    with pytest.raises(MalformedMessage):
        decode(CheckedLeaf, msgpack.packb([bytes(32), 2**32]))
