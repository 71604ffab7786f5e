"""The state as bytes and as one hash: the same everywhere, whatever order things came in."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import MalformedMessage, RemoteError
from protocol.ledger.draft import Draft
from protocol.ledger.records import Account
from protocol.ledger.rows import encode_frame, list_state_rows, restore_state, update_tree
from protocol.ledger.state import TABLES, compute_state_root
from protocol.ledger.transactions import Transfer
from tests.support.disputes import Quarrel
from tests.support.ledgers import Ledger


def _make_history() -> Ledger:
    """A little of everything the state can hold."""
    ledger = Ledger()
    channel = ledger.open_channel()
    ledger.do(ledger.account("inference-0"), ledger.settle(channel, ledger.work(channel)[2]))
    Quarrel(ledger, "client-0", ledger.work(channel, 2, "inference-1")[0]).condemn()
    ledger.do(ledger.spare(), Transfer(b"\x09" * 32, 5), after_ms=20_000)
    return ledger


def test_a_state_survives_as_rows() -> None:
    state = _make_history().state
    again = restore_state(encode_frame(state), list_state_rows(state))
    assert again == state
    assert again.tree == state.tree
    assert compute_state_root(again) == compute_state_root(state)


def test_changes_of_each_block_lead_from_one_state_to_the_next() -> None:
    ledger = _make_history_once()
    rows: dict[tuple[str, bytes], bytes] = {}
    for number, (_, _, state) in enumerate(ledger.blocks):
        changes = list_state_rows(state) if number == 0 else state.changes
        for table, key, record in changes:
            if record is None:
                del rows[table, key]
            else:
                rows[table, key] = record
        assert sorted((*place, record) for place, record in rows.items()) == sorted(list_state_rows(state))
        assert restore_state(encode_frame(state), ((*place, record) for place, record in rows.items())) == state


@settings(max_examples=300, deadline=None)
@given(row=st.integers(-1, 10**6), place=st.integers(0, 10**6), flip=st.integers(1, 255))
def test_a_changed_byte_is_refused_or_leads_to_another_root(row: int, place: int, flip: int) -> None:
    before = _make_history_once().state
    frame, rows = encode_frame(before), list(list_state_rows(before))
    if row < 0:
        frame = _flip(frame, place, flip)
    else:
        name, key, record = rows[row % len(rows)]
        changed = _flip(key + record, place, flip)
        rows[row % len(rows)] = name, changed[: len(key)], changed[len(key) :]
    try:
        state = restore_state(frame, rows)
    except RemoteError:
        return
    assert compute_state_root(state) != compute_state_root(before) or state.block_id != before.block_id


def _flip(data: bytes, place: int, flip: int) -> bytes:
    changed = bytearray(data)
    changed[place % len(data)] ^= flip
    return bytes(changed)


def test_rows_that_are_none_of_a_state_are_refused() -> None:
    state = _make_history_once().state
    frame, rows = encode_frame(state), list(list_state_rows(state))
    unfit = {
        "no table": ("songs", b"x", b""),
        "twice": rows[0],
        "no key": ("epochs", b"\x00" * 9, rows[0][2]),
        "nor text": ("feeds", b"\xff", rows[0][2]),
        "no record": ("accounts", b"\x01" * 32, b"\xc0"),
    }
    for row in unfit.values():
        with pytest.raises(MalformedMessage):
            restore_state(frame, [*rows, row])
    with pytest.raises(MalformedMessage):
        restore_state(frame[:-1], rows)


def test_every_field_of_the_state_but_the_block_id_is_under_the_root() -> None:
    state = _make_history_once().state
    root = compute_state_root(state)
    changes = {
        "chain": b"another1",
        "height": state.height + 1,
        "time_ms": state.time_ms + 1,
        "genesis_ms": 1,
        "seed": bytes(32),
        "epoch": state.epoch + 1,
        "supply": 1,
        "treasury": state.treasury + 1,
        "burned": state.burned + 1,
        "params": replace(state.params, epoch_ms=1),
    }
    for name, value in changes.items():
        assert compute_state_root(replace(state, **{name: value})) != root, name
    for table, key, record in list_state_rows(state):
        for changed in (record + b"\0", None):
            tree = update_tree(state.tree, [(table, key, changed)])
            assert compute_state_root(replace(state, tree=tree)) != root, table


def test_the_root_does_not_depend_on_the_order_of_writing() -> None:
    state = _make_history_once().state
    keys = [bytes([number]) * 32 for number in range(40)]
    roots = set()
    for order in (keys, keys[::-1]):
        draft = Draft(state, state.height + 1, state.time_ms + 1)
        for key in order:
            draft.accounts.put(key, Account(1, 0))
        roots.add(compute_state_root(draft.freeze(bytes(32))))
    assert len(roots) == 1


def test_a_draft_goes_back_to_its_mark() -> None:
    state = _make_history_once().state
    draft = Draft(state, state.height + 1, state.time_ms + 1)
    known = next(iter(state.accounts))
    draft.accounts.put(b"\x01" * 32, Account(5, 0))
    mark = draft.mark()
    draft.accounts.put(b"\x01" * 32, Account(6, 0))
    draft.accounts.put(b"\x02" * 32, Account(7, 0))
    draft.accounts.delete(known)
    draft.burned += 1
    assert len(draft.accounts) == len(state.accounts) + 1
    draft.go_back(mark)
    assert len(draft.accounts) == len(state.accounts) + 1
    assert draft.accounts.get(b"\x01" * 32) == Account(5, 0)
    assert draft.accounts.get(b"\x02" * 32) is None
    assert draft.accounts.get(known) == state.accounts[known]
    assert draft.burned == state.burned
    assert [key for key, _ in draft.accounts.items()] == sorted([*state.accounts, b"\x01" * 32])


def test_a_draft_without_changes_shares_every_table() -> None:
    state = _make_history_once().state
    after = Draft(state, state.height, state.time_ms).freeze(state.block_id)
    assert after == state
    assert all(getattr(after, table.name) is getattr(state, table.name) for table in TABLES)


_PROGRAM = """
from tests.protocol.ledger.test_state import _make_history
from protocol.ledger.state import compute_state_root
print(compute_state_root(_make_history().state).hex())
"""


def test_the_root_is_the_same_in_another_process_under_another_hash_seed() -> None:
    roots = {compute_state_root(_make_history().state).hex()}
    for hash_seed in ("0", "1", "4242"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM], env=environment, capture_output=True, text=True, timeout=60, check=True
        )
        roots.add(done.stdout.strip())
    assert len(roots) == 1


_history: list[Ledger] = []


def _make_history_once() -> Ledger:
    if not _history:
        _history.append(_make_history())
    return _history[0]
