"""Withheld outputs: who may ask for one, what answers, what silence costs, and that nobody gains by the asking."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.codec import encode
from protocol.errors import InvalidTransaction
from protocol.generation import PROMPT_TOKENS_MAX, TOKENS_MAX, Generation, count_steps, make_outputs
from protocol.ledger.batches import BatchLeaf
from protocol.ledger.errors import LimitReached
from protocol.ledger.job_errors import AlreadyChallenged, InvalidBatch, InvalidLeaf, UnknownBatch, UnknownChallenge
from protocol.ledger.job_records import Withheld
from protocol.ledger.model_records import TensorSpec
from protocol.ledger.params import Params
from protocol.ledger.quality import compute_burnt
from protocol.ledger.state import compute_supply
from protocol.ledger.transactions import BODY_BYTES_MAX
from protocol.ledger.withheld import (
    PUBLISHED_BYTES_MAX,
    WITHHELD_KIND,
    ChallengeWithheld,
    Published,
    PublishOutput,
    compute_challenge_key,
    compute_output_bytes,
    explain_size,
)
from protocol.merkle_sum import SUM_PATH_MAX, SumNode, SumTree
from protocol.signing import sign
from protocol.tensor import DIGEST_BYTES, Tensor
from testnet.genesis import load_models
from tests.protocol.ledger.test_batches import ALL, SEVERAL, Batch
from tests.support.jobs import OUTPUT, PRICE, find_model
from tests.support.ledgers import Ledger

PARAMS = Params()
FEE = PARAMS.answer_fee
OUTPUTS = (OUTPUT,)


def to_window(ledger: Ledger, amounts: list[int | None]) -> Batch:
    """A batch all of whose leaves have been checked."""
    batch = Batch(ledger, amounts).open_all().attest_all()
    ledger.do(batch.worker, batch.reveal(*(index for index, amount in enumerate(amounts) if amount is not None)))
    return batch


def publish(batch: Batch, index: int) -> PublishOutput:
    leaf, path = batch.leaves[index], SumTree(batch.nodes).prove(index)
    if leaf.reason:
        return PublishOutput(batch.id, index, leaf, path, (), ())
    shown = Published(batch.receipts[index], OUTPUTS)
    return PublishOutput(batch.id, index, leaf, path, (batch.items[index].voucher,), (shown,))


def challenge(batch: Batch, index: int = 0, amount: int = PRICE) -> ChallengeWithheld:
    return ChallengeWithheld(batch.id, index, amount)


def find(batch: Batch, index: int = 0) -> Withheld:
    return batch.ledger.state.withheld[compute_challenge_key(batch.id, index)]


def pass_by(ledger: Ledger) -> None:
    """The deadline, and the grace after the block that reaches it."""
    ledger.block(after_ms=PARAMS.answer_ms)
    ledger.block(after_ms=PARAMS.grace_ms)


def test_what_is_published_stands_in_the_state_and_the_worker_is_paid_what_publishing_cost() -> None:
    ledger = Ledger(SEVERAL, ALL)
    batch, client = to_window(ledger, [PRICE, PRICE]), ledger.account("client-0")
    before = ledger.state.get_balance(client.public)
    ledger.do(client, challenge(batch))
    asked = ledger.state.get_balance(client.public)
    worker = ledger.state.get_balance(batch.worker.public)

    ledger.do(batch.worker, publish(batch, 0))

    assert find(batch).answer == encode(Published(batch.receipts[0], OUTPUTS))
    assert WITHHELD_KIND not in {item.kind for item in ledger.state.due.values()}
    assert ledger.state.get_balance(batch.worker.public) == worker  # neither gains nor loses
    cost = before - PARAMS.base_fee_min - ledger.state.get_balance(client.public)
    assert before - asked == PARAMS.base_fee_min + FEE
    assert PARAMS.base_fee_min <= cost < FEE
    assert isinstance(ledger.refuse(batch.worker, publish(batch, 0)), UnknownChallenge)
    assert isinstance(ledger.refuse(client, challenge(batch)), AlreadyChallenged)
    ledger.block(after_ms=PARAMS.settle_window_ms)
    ledger.block(after_ms=PARAMS.grace_ms + PARAMS.answer_ms)
    assert batch.id not in ledger.state.batches
    assert not ledger.state.withheld
    assert ledger.state.work[batch.worker.public].earned == 2 * PRICE
    assert compute_supply(ledger.state) == ledger.state.supply


def test_silence_forfeits_the_leaf_after_the_grace_and_only_the_leaf() -> None:
    ledger = Ledger(SEVERAL, replace(ALL, sample_bp=1, sample_floor_bp=1, slash_bp=10_000))
    batch, client = Batch(ledger, [PRICE] * 3).open_all().attest_all(), ledger.account("client-0")
    ledger.do(batch.worker, batch.reveal(*batch.checks))
    free = next(index for index in range(3) if index not in batch.checks)
    before = ledger.state.get_balance(client.public)
    ledger.do(client, challenge(batch, free))
    ledger.block(after_ms=PARAMS.answer_ms)
    assert not find(batch, free).is_over  # put off once
    ledger.block(after_ms=PARAMS.grace_ms - 1)
    assert not find(batch, free).is_over
    assert batch.id in ledger.state.batches  # and not paid out while it is open

    ledger.block(after_ms=1)

    assert find(batch, free).is_forfeit
    assert ledger.state.get_balance(client.public) == before - PARAMS.base_fee_min
    assert ledger.state.channels[batch.channel].paid == 2 * PRICE
    count = ledger.state.work[batch.worker.public]
    assert (count.void, count.lost) == (1, compute_burnt(PRICE, PARAMS))
    ledger.block(after_ms=PARAMS.grace_ms + PARAMS.answer_ms)
    assert ledger.state.work[batch.worker.public].earned == 2 * PRICE
    assert ledger.state.channels[batch.channel].paid == 2 * PRICE
    assert compute_supply(ledger.state) == ledger.state.supply


def test_silence_about_a_leaf_that_was_drawn_gives_it_back_once() -> None:
    ledger = Ledger(SEVERAL, ALL)
    batch, client = to_window(ledger, [PRICE, PRICE]), ledger.account("client-0")
    ledger.do(client, challenge(batch))
    pass_by(ledger)
    ledger.block(after_ms=PARAMS.grace_ms + PARAMS.answer_ms)

    assert batch.id not in ledger.state.batches
    assert ledger.state.channels[batch.channel].paid == PRICE
    assert ledger.state.work[batch.worker.public].earned == PRICE
    assert compute_supply(ledger.state) == ledger.state.supply


def test_a_leaf_that_earns_nothing_is_shown_and_costs_who_asked() -> None:
    ledger = Ledger(SEVERAL, ALL)
    batch, client = to_window(ledger, [PRICE, None]), ledger.account("client-0")
    ledger.do(client, challenge(batch, 1))
    ledger.do(batch.worker, publish(batch, 1))

    held = find(batch, 1)
    assert (held.is_over, held.is_forfeit, held.answer) == (1, 0, b"")
    ledger.block(after_ms=PARAMS.grace_ms + PARAMS.answer_ms)
    assert ledger.state.work[batch.worker.public].earned == PRICE


def test_only_the_payer_asks_and_only_for_what_its_run_holds() -> None:
    ledger = Ledger(SEVERAL, replace(ALL, withheld_max=1))
    client = ledger.account("client-0")
    early = Batch(ledger, [PRICE]).settle()
    assert isinstance(ledger.refuse(client, challenge(early)), InvalidBatch)  # its leaves are not drawn yet
    batch = to_window(ledger, [PRICE, PRICE])

    assert isinstance(ledger.refuse(ledger.account("verifier-0"), challenge(batch)), InvalidLeaf)
    assert isinstance(ledger.refuse(client, ChallengeWithheld(bytes(32), 0, PRICE)), UnknownBatch)
    for index, amount in ((0, 0), (0, 2 * PRICE + 1), (2, PRICE)):
        assert isinstance(ledger.refuse(client, challenge(batch, index, amount)), InvalidLeaf)
    ledger.do(client, challenge(batch, 1))
    assert isinstance(ledger.refuse(client, challenge(batch, 0)), LimitReached)


def change(body: PublishOutput, batch: Batch) -> dict[str, PublishOutput]:
    (shown,), (voucher,), leaf = body.published, body.voucher, body.leaf
    client = batch.ledger.account("client-0")
    lie = (replace(OUTPUTS[0], data=b"\x01" * len(OUTPUTS[0].data)),)
    other = replace(shown.receipt, salt=bytes(32))
    unsigned = replace(shown.receipt, claim=replace(shown.receipt.claim, signature=bytes(64)))
    return {
        "other outputs": replace(body, published=(replace(shown, outputs=lie),)),
        "no outputs": replace(body, published=(replace(shown, outputs=()),)),
        "nothing": replace(body, published=(), voucher=()),
        "no voucher": replace(body, voucher=()),
        "a receipt that opens nothing": replace(body, published=(replace(shown, receipt=other),)),
        "another leaf's receipt": replace(body, published=(Published(batch.receipts[1], OUTPUTS),)),
        "a leaf said to earn nothing": replace(body, leaf=BatchLeaf(leaf.channel, leaf.seq, 5, 0, bytes(32))),
        "another leaf": replace(body, leaf=batch.leaves[1]),
        "another way": replace(body, path=SumTree(batch.nodes).prove(1)),
        "another voucher": replace(body, voucher=(sign(replace(voucher, amount=1), client),)),
        "a claim nobody signed": replace(body, published=(replace(shown, receipt=unsigned),)),
        "another index": replace(body, index=1),
    }


def test_nothing_but_the_output_of_the_leaf_in_the_root_is_an_answer() -> None:
    ledger = Ledger(SEVERAL, ALL)
    batch = to_window(ledger, [PRICE, PRICE])
    ledger.do(ledger.account("client-0"), challenge(batch))

    for name, body in change(publish(batch, 0), batch).items():
        assert isinstance(ledger.refuse(batch.worker, body), InvalidTransaction), name
    assert isinstance(ledger.refuse(ledger.account("inference-1"), publish(batch, 0)), UnknownBatch)
    assert not find(batch).is_over
    ledger.do(batch.worker, publish(batch, 0))


@settings(max_examples=25, deadline=None)
@given(
    asked=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4 * PRICE), st.booleans()), max_size=4),
    wrong=st.booleans(),
)
def test_whatever_is_asked_and_answered_no_grain_comes_or_goes_and_none_is_given_back_twice(
    asked: list[tuple[int, int, bool]], wrong: bool
) -> None:
    params = replace(ALL, sample_bp=5_000, sample_floor_bp=5_000)
    ledger = Ledger(SEVERAL, params, check_signatures=False)
    batch, client = Batch(ledger, [PRICE, 1, None, PRICE]).open_all().attest_all(), ledger.account("client-0")
    ledger.do(batch.worker, batch.reveal(*batch.checks))
    for index, amount, is_answered in asked:
        if not ledger.block(ledger.sign(client, challenge(batch, index, amount))) and is_answered:
            ledger.do(batch.worker, publish(batch, index))
    assert compute_supply(ledger.state) == ledger.state.supply
    pass_by(ledger)
    assert compute_supply(ledger.state) == ledger.state.supply
    ledger.block(after_ms=10 * PARAMS.grace_ms)
    ledger.block(after_ms=10 * PARAMS.grace_ms)

    assert not ledger.state.withheld
    assert not ledger.state.batches
    assert 0 <= ledger.state.channels[batch.channel].paid <= 2 * PRICE + 1
    assert compute_supply(ledger.state) == ledger.state.supply


def test_the_largest_output_that_may_be_in_a_batch_fits_one_transaction() -> None:
    ledger = Ledger(SEVERAL, ALL)
    batch = to_window(ledger, [PRICE])
    digits = find_model(ledger.state)
    assert compute_output_bytes(digits, 64) == 64 * 10 * 4 + 64
    assert explain_size(digits, 64) == ""
    wide = replace(digits, outputs=(TensorSpec("uint8", (0, 1_000)),))
    rows = next(rows for rows in range(64, 0, -1) if not explain_size(wide, rows))
    assert f"at most {PUBLISHED_BYTES_MAX} can be published" in explain_size(wide, rows + 1)
    body = publish(batch, 0)
    shown = Published(batch.receipts[0], (Tensor("uint8", (rows, 1_000), bytes(rows * 1_000)),))
    path = (SumNode(bytes(32), 2**62),) * SUM_PATH_MAX
    assert len(encode(replace(body, published=(shown,), path=path))) <= BODY_BYTES_MAX


def test_a_text_of_any_length_could_be_published_though_its_steps_could_not() -> None:
    """What a client gets are tokens and digests, not what each step gave: 145 steps of pydoc give 501,312 bytes."""
    (pydoc,) = load_models(("pydoc",))
    longest = Generation((1,) * PROMPT_TOKENS_MAX, TOKENS_MAX)
    outputs = make_outputs((1,) * TOKENS_MAX, bytes(DIGEST_BYTES * count_steps(longest, TOKENS_MAX)))
    assert sum(len(encode(tensor)) for tensor in outputs) <= compute_output_bytes(pydoc, longest.units)
    assert explain_size(pydoc, longest.units) == ""
