"""Ledger files: what they show to who holds a genesis, and that no byte of them can be changed."""

from dataclasses import replace
from hashlib import sha256

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from protocol.codec import encode
from protocol.errors import InvalidProof, RemoteError
from protocol.jobs import compute_claim_id
from protocol.ledger.block import ValidatorSet, get_validators
from protocol.ledger.light import Handover, Trusted, trust_genesis
from protocol.ledger.restart import apply_restart
from protocol.ledger.transactions import Stake, Transfer
from protocol.proofs.ledger_file import (
    VERSION,
    LedgerFile,
    Section,
    TransactionProof,
    build_state_proof,
    decode_ledger_file,
    verify_ledger_file,
)
from tests.protocol.ledger.test_restart import NAMES, build_after, make_restart
from tests.support.ledgers import Ledger

NOBODY = b"\x77" * 32


class Story:
    """A settled job, a change of validators, and the file that shows both the settlement and what accounts hold."""

    def __init__(self) -> None:
        ledger = self.ledger = Ledger()
        self.channel = ledger.open_channel()
        receipt, _, work = ledger.work(self.channel)
        self.claim_id = compute_claim_id(receipt.claim)
        ledger.do(ledger.account("validator-0"), Stake(5))
        ledger.do(ledger.account("inference-0"), ledger.settle(self.channel, work))
        settled = ledger.blocks[-1]
        ledger.do(ledger.spare(), Transfer(bytes(32), 1), after_ms=25_000)
        changed = ledger.blocks[-1]
        ledger.do(ledger.spare(), Transfer(bytes(32), 1))
        self.account = ledger.account("inference-0").public
        wanted = [("accounts", self.account), ("nodes", self.account), ("accounts", NOBODY), ("wrong", self.claim_id)]
        block, certificate, state = ledger.blocks[-1]
        digests = tuple(sha256(data).digest() for data in settled[0].transactions)
        self.file = LedgerFile(
            VERSION,
            (Handover(changed[0].header, changed[1], ValidatorSet(get_validators(changed[2]))),),
            (),
            (
                Section(settled[0].header, settled[1], (), (TransactionProof(digests, settled[0].transactions),)),
                Section(block.header, certificate, (build_state_proof(state, wanted),), ()),
            ),
        )

    @property
    def trusted(self) -> Trusted:
        return trust_genesis(self.ledger.foundation.genesis)


STORY = Story()


def test_a_file_shows_entries_absences_and_settled_leaves() -> None:
    file = decode_ledger_file(encode(STORY.file))
    shown = verify_ledger_file(file, STORY.trusted)
    state = STORY.ledger.state
    assert shown.entries == {
        ("accounts", STORY.account): state.accounts[STORY.account],
        ("nodes", STORY.account): state.nodes[STORY.account],
        ("accounts", NOBODY): None,
        ("wrong", STORY.claim_id): None,
    }
    assert (shown.height, shown.state_height) == (state.height, state.height)
    [leaf] = shown.leaves.values()
    assert (leaf.channel, leaf.seq, leaf.claim_id) == (STORY.channel, 1, STORY.claim_id)


def test_a_file_leads_across_a_restart() -> None:
    ledger = Ledger({"validator": 4})
    ledger.do(ledger.spare(), Transfer(bytes(32), 1))
    restart = make_restart(ledger, *NAMES)
    block, certificate, after = build_after(ledger, apply_restart(ledger.state, restart), *NAMES)
    account = ledger.spare().public
    section = Section(block.header, certificate, (build_state_proof(after, [("accounts", account)]),), ())
    trusted = trust_genesis(ledger.foundation.genesis)
    shown = verify_ledger_file(LedgerFile(VERSION, (), (restart,), (section,)), trusted)
    assert shown.entries == {("accounts", account): after.accounts[account]}
    with pytest.raises(RemoteError, match="no validator's"):
        verify_ledger_file(LedgerFile(VERSION, (), (), (section,)), trusted)
    bad = make_restart(ledger, *NAMES[:2])
    with pytest.raises(RemoteError, match="weight of"):
        verify_ledger_file(LedgerFile(VERSION, (), (bad,), (section,)), trusted)
    late = replace(restart, terms=replace(restart.terms, height=after.height))
    with pytest.raises(RemoteError, match="no validator's"):
        verify_ledger_file(LedgerFile(VERSION, (), (late,), (section,)), trusted)


def test_it_shows_nothing_to_who_trusts_another_genesis() -> None:
    with pytest.raises(RemoteError, match="of this chain"):
        verify_ledger_file(STORY.file, trust_genesis(Ledger({"validator": 1}).foundation.genesis))


@settings(max_examples=300, deadline=None)
@given(place=st.integers(0, 10**6), flip=st.integers(1, 255))
@example(place=38_948, flip=220)
def test_a_flipped_byte_is_refused_wherever_it_is_or_leaves_the_truth(place: int, flip: int) -> None:
    data = bytearray(encode(STORY.file))
    data[place % len(data)] ^= flip
    try:
        shown = verify_ledger_file(decode_ledger_file(bytes(data)), STORY.trusted)
    except RemoteError:
        return
    # A neighbour of a key that is not there is not there either, and the same proof shows it.
    assert None in shown.entries.values()
    for (table, key), record in shown.entries.items():
        assert getattr(STORY.ledger.state, table).get(key) == record


def test_a_record_of_ones_own_making_and_an_absence_that_is_none_are_refused() -> None:
    first, last = STORY.file.sections
    [proof] = last.state
    richer = replace(STORY.ledger.state.accounts[STORY.account], balance=10**12)

    def change(index: int, **fields: object) -> LedgerFile:
        entries = list(proof.entries)
        entries[index] = replace(entries[index], **fields)  # type: ignore[arg-type]
        return replace(STORY.file, sections=(first, replace(last, state=(replace(proof, entries=tuple(entries)),))))

    lies = {
        "more money": change(0, record=encode(richer)),
        "no money": change(0, record=b""),
        "money of nobody": change(2, record=encode(richer)),
        "another table": change(0, table="nodes"),
        "no table": change(0, table="songs"),
        "another account": change(0, key=NOBODY),
        "a head of another height": replace(
            STORY.file,
            sections=(first, replace(last, state=(replace(proof, head=replace(proof.head, treasury=1)),))),
        ),
        "a change that leads nowhere": replace(STORY.file, sections=(first,)),
        "no section": replace(STORY.file, sections=(), handovers=()),
        "another version": replace(STORY.file, version=2),
        "another block's transactions": replace(
            STORY.file,
            handovers=(),
            sections=(replace(first, transactions=(TransactionProof((bytes(32),), ()),)),),
        ),
        "a transaction that is in no block": replace(
            STORY.file,
            handovers=(),
            sections=(replace(first, transactions=(replace(first.transactions[0], transactions=(b"\x90",)),)),),
        ),
    }
    for lie in lies.values():
        with pytest.raises(RemoteError):
            verify_ledger_file(lie, STORY.trusted)
    with pytest.raises(InvalidProof, match="shows nothing"):
        verify_ledger_file(lies["no section"], STORY.trusted)
