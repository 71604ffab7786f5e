"""What is kept of a dispute, and told of it, from blocks alone."""

import random
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from protocol.codec import encode
from protocol.errors import RemoteError
from protocol.jobs import compute_claim_id
from protocol.ledger.apply import decode_transactions
from protocol.ledger.block import Block
from protocol.ledger.genesis import build_state
from protocol.ledger.params import Params
from protocol.ledger.state import State
from protocol.ledger.step_disputes import NameStep
from protocol.proofs.trace import Judgement
from testnet.dispute_course import DisputeCourse
from testnet.evidence import DisputeWords, Evidence, decode_evidence, verify_evidence
from testnet.explain import Case, History, Try, describe_batched
from tests.protocol.ledger.test_batches import ALL, SEVERAL, Batch
from tests.protocol.ledger.test_step_disputes import Quarrel as TextQuarrel
from tests.support.disputes import FOUR, Quarrel
from tests.support.jobs import PRICE
from tests.support.ledgers import Ledger

PARAMS = Params()


def replay(ledger: Ledger) -> Iterator[tuple[State, Block, State]]:
    before = build_state(ledger.foundation.genesis)
    for block, _, after in ledger.blocks:
        yield before, block, after
        before = after


def gather(ledger: Ledger) -> Evidence:
    """What is left of the one claim that was found wrong."""
    words, found = DisputeWords(), []
    for before, block, after in replay(ledger):
        words.take(decode_transactions(block))
        found += [words.find_evidence(before, key) for key in after.wrong.keys() - before.wrong.keys()]
        words.forget(after)
    (evidence,) = found
    assert evidence is not None
    return evidence


def wait(ledger: Ledger) -> None:
    ledger.block(after_ms=PARAMS.dispute_ms)
    ledger.block(after_ms=PARAMS.grace_ms)


def test_the_words_of_a_lost_dispute_show_who_said_what_and_who_judged() -> None:
    ledger = Ledger(FOUR)
    Quarrel(ledger).condemn()
    evidence = gather(ledger)
    alone = verify_evidence(decode_evidence(encode(evidence)))
    assert [(item.level, item.is_shown) for item in alone] == [
        ("signed", True),
        ("argued", True),
        ("judged", True),
        ("slashed", False),
    ]
    assert "3 of 3 judges" in alone[2].text
    assert verify_evidence(evidence, ledger.state)[3].is_shown


@pytest.mark.parametrize("said", [0, 2])
def test_a_worker_that_lost_by_its_silence_has_said_nothing_and_nobody_has_judged(said: int) -> None:
    ledger = Ledger(FOUR)
    quarrel = Quarrel(ledger).open()
    if said:
        quarrel.trace_it().name_it()
    wait(ledger)
    findings = verify_evidence(gather(ledger), ledger.state)
    assert [item.is_shown for item in findings] == [True, False, False, True]


@pytest.mark.parametrize(
    ("argue", "is_argued", "what"),
    [
        (lambda quarrel: quarrel.argue().judge(), True, "of step 4"),
        (lambda quarrel: wait(quarrel.ledger), False, "what each operator gave"),
        (lambda quarrel: wait(quarrel.show().name(4).ledger), False, "what each operator of step 4 gave"),
        (lambda quarrel: wait(quarrel.show().name(4).trace(4).name_part(1).ledger), False, "operator 1 of step 4"),
    ],
)
def test_the_words_of_a_dispute_about_text_lead_from_its_steps_to_one_part_of_one(
    argue: Callable[[TextQuarrel], object], is_argued: bool, what: str
) -> None:
    quarrel = TextQuarrel()
    argue(quarrel)
    evidence = gather(quarrel.ledger)
    argued = verify_evidence(decode_evidence(encode(evidence)), quarrel.ledger.state)[1]
    assert argued.is_shown is is_argued
    assert what in argued.text
    alone = verify_evidence(evidence)[1]
    assert not alone.is_shown
    assert "no ledger that knows the model" in alone.text or not is_argued


def test_words_about_another_text_or_another_step_of_it_are_refused() -> None:
    quarrel, other = TextQuarrel(), TextQuarrel(tokens=(10, 11, 12, 14))
    quarrel.argue().judge()
    evidence, key = gather(quarrel.ledger), quarrel.id
    post, name = (
        quarrel.ledger.sign(quarrel.worker, quarrel.post(outputs=other.outputs)),
        quarrel.ledger.sign(quarrel.challenger, NameStep(key, 3)),
    )
    for place, word in ((1, post), (2, name)):
        changed = (*evidence.transactions[:place], word, *evidence.transactions[place + 1 :])
        with pytest.raises(RemoteError):
            verify_evidence(replace(evidence, transactions=changed), quarrel.ledger.state)


def test_any_flipped_byte_of_evidence_is_refused() -> None:
    ledger = Ledger(FOUR)
    Quarrel(ledger).condemn()
    data = encode(gather(ledger))
    rng = random.Random(1)
    for place in rng.sample(range(len(data)), 60):
        flipped = bytearray(data)
        flipped[place] ^= 1 << rng.randrange(8)
        with pytest.raises(RemoteError):
            verify_evidence(decode_evidence(bytes(flipped)))


def test_words_of_another_dispute_or_out_of_order_or_said_twice_are_refused() -> None:
    ledger, other = Ledger(FOUR), Ledger(FOUR)
    Quarrel(ledger).condemn()
    Quarrel(other, "verifier-1").condemn()
    evidence, foreign = gather(ledger), gather(other)
    words = evidence.transactions
    for changed in (
        (),
        words[1:],
        (words[0], words[2], words[1], *words[3:]),
        (*words, words[-1]),
        (*words, foreign.transactions[-1]),
    ):
        with pytest.raises(RemoteError):
            verify_evidence(replace(evidence, transactions=changed))
    with pytest.raises(RemoteError):
        verify_evidence(replace(evidence, claim=replace(evidence.claim, fee=1)))


@pytest.mark.parametrize(
    ("argue", "last"),
    [
        (lambda quarrel: quarrel.argue().vote(Judgement.WRONG, 0, 1, 2), "validators found the worker wrong"),
        (lambda quarrel: quarrel.argue().vote(Judgement.SOUND, 0, 1, 2), "which has lost its bond"),
        (lambda quarrel: wait(quarrel.open().ledger), "the worker has lost by its silence"),
        (lambda quarrel: wait(quarrel.open().trace_it().ledger), "the challenger was silent"),
        (lambda quarrel: wait(quarrel.argue().ledger), "did not decide"),
    ],
)
def test_the_course_of_a_dispute_is_told_block_by_block(argue: Callable[[Quarrel], object], last: str) -> None:
    ledger = Ledger(FOUR)
    quarrel = Quarrel(ledger)
    argue(quarrel)
    claim_id = compute_claim_id(quarrel.receipt.claim)
    course = DisputeCourse({claim_id})
    for before, _, after in replay(ledger):
        course.take(before, after)
    lines = course.lines[claim_id]
    assert "disputes it with a bond of 10000000000 grains" in lines[0]
    assert last in lines[-1]


def test_the_course_of_a_dispute_about_text_names_the_step_and_the_part_of_it() -> None:
    quarrel = TextQuarrel().argue().judge()
    claim_id = compute_claim_id(quarrel.receipt.claim)
    course = DisputeCourse({claim_id})
    for before, _, after in replay(quarrel.ledger):
        course.take(before, after)
    told = [line.partition(": ")[2] for line in course.lines[claim_id]]
    assert told[1:6] == [
        "the worker shows the tokens and what each step gave",
        "the challenger names step 4",
        "the worker says what each of 4 parts of step 4 gave",
        "the challenger names part 1 of step 4",
        "the worker shows what part 1 of step 4 took",
    ]
    assert told[-1] == "validators found the worker wrong"


@pytest.mark.parametrize("is_paid", [True, False])
def test_of_a_batched_voucher_it_is_told_whether_it_was_drawn_and_paid(is_paid: bool) -> None:
    ledger = Ledger(SEVERAL, replace(ALL, sample_bp=1, sample_floor_bp=1, slash_bp=10_000))
    batch = Batch(ledger, [PRICE] * 3)
    vouchers = [batch.items[number].voucher for number in range(3)]
    history = History(Case(batch.items[0].request, tuple(Try(b"", voucher) for voucher in vouchers)))
    if is_paid:
        batch.check_all()
        ledger.block(after_ms=PARAMS.dispute_window_ms)
    else:
        batch.settle()
    for before, block, after in replay(ledger):
        history.on_block(before, block, after)
    told = [describe_batched(voucher, history) for voucher in vouchers]
    assert [settled.is_shown for _, settled in told] == [is_paid] * 3
    assert sum(drawn.is_shown for drawn, _ in told) == int(is_paid)
    if not is_paid:
        assert "nothing is drawn yet" in told[0][0].text
    assert not any(item.is_shown for item in describe_batched(replace(vouchers[0], seq=9), history))
    assert not any(item.is_shown for item in describe_batched(vouchers[0], None))
