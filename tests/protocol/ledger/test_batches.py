"""Batches: what a root can hold, what is drawn of it, what silence and lies cost."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.jobs import Mode, PaidRequest, Receipt, compute_attestation, compute_claim_id
from protocol.keys import PrivateKey
from protocol.ledger.apply import next_due_ms
from protocol.ledger.batches import (
    SAMPLES_MAX,
    BatchLeaf,
    BatchSettle,
    RunOfBatch,
    compute_drawn,
    compute_pending_max,
    make_batch_leaf,
)
from protocol.ledger.checks import AttestLeaves, LeafAttestation, LeafDigest, RevealDigests
from protocol.ledger.errors import InvalidSignature, LimitReached, UnknownNode
from protocol.ledger.job_errors import (
    AlreadyOpened,
    ExpiredVoucher,
    InvalidBatch,
    InvalidLeaf,
    NotYourChannel,
    PendingTooHigh,
    SequenceMismatch,
    UnknownBatch,
    UnknownChannel,
    VoucherExceeded,
)
from protocol.ledger.job_records import Batch as BatchRecord
from protocol.ledger.job_records import BatchPhase, Check, Checker
from protocol.ledger.openings import LeafOpening, OpenedWork, OpenLeaves
from protocol.ledger.params import Params
from protocol.ledger.transactions import CloseChannel, ZeroReason, compute_transaction_id
from protocol.merkle_sum import SumTree
from protocol.signing import sign
from protocol.tensor import Tensor
from tests.support.disputes import Quarrel
from tests.support.jobs import OUTPUT, PRICE, make_receipt, make_request, pay
from tests.support.ledgers import Ledger

PARAMS = Params()
ALL = replace(PARAMS, sample_bp=10_000, sample_floor_bp=10_000, slash_bp=5_000)  # every leaf is drawn
SEVERAL = {"validator": 1, "inference": 2, "verifier": 6, "client": 1}
TRUTH = b"\x01" * 32


class Batch:
    """A batch of one channel under way: amounts of its leaves, None for a zero leaf."""

    def __init__(
        self,
        ledger: Ledger,
        amounts: list[int | None],
        deposit: int = 100 * PRICE,
        mode: Mode = Mode.BATCH,
        outputs: tuple[Tensor, ...] = (OUTPUT,),
    ) -> None:
        self.ledger = ledger
        self.worker = ledger.account("inference-0")
        self.channel = ledger.open_channel(deposit=deposit, mode=Mode.BATCH)
        self.items: list[PaidRequest] = []
        self.receipts: list[Receipt] = []
        self.leaves: list[BatchLeaf] = []
        cumulative = 0
        for seq, amount in enumerate(amounts, 1):
            promised = PRICE if amount is None else amount
            cumulative += promised
            number = ledger.state.height * 100 + seq
            request = make_request(ledger.state, ledger.foundation, number, mode=mode)
            item = pay(request, ledger.foundation, self.channel, seq, amount=promised, cumulative=cumulative)
            receipt = make_receipt(item, ledger.node("inference-0"), outputs)
            reason = 0 if amount is not None else int(ZeroReason.DISSENT)
            claim_id = compute_claim_id(receipt.claim) if amount is not None else bytes(32)
            self.items.append(item)
            self.receipts.append(receipt)
            self.leaves.append(BatchLeaf(self.channel, seq, reason, amount or 0, claim_id))
        self.nodes = [make_batch_leaf(leaf) for leaf in self.leaves]
        self.root = SumTree(self.nodes).root
        run = RunOfBatch(1, self.root.total, self.items[-1].voucher)
        self.body = BatchSettle((run,), self.root.root)
        self.id = b""

    @property
    def held(self) -> BatchRecord:
        return self.ledger.state.batches[self.id]

    @property
    def checks(self) -> dict[int, Check]:
        """By leaf."""
        held = self.ledger.state.checks.items()
        return {int.from_bytes(key[32:], "big"): check for key, check in held if key[:32] == self.id}

    def settle(self) -> "Batch":
        transaction = self.ledger.sign(self.worker, self.body)
        assert self.ledger.block(transaction) == []
        self.id = compute_transaction_id(transaction)
        return self

    def draw(self) -> tuple[int, ...]:
        """Let blocks come until the leaves are drawn."""
        for _ in range(4):
            if self.held.seed:
                return compute_drawn(self.held.seed, self.id, self.held.leaves, self.held.sample_bp)
            self.ledger.block(after_ms=1)
        raise AssertionError("no seed")

    def open(self, *indices: int) -> OpenLeaves:
        return OpenLeaves(self.id, tuple(self.opening(index) for index in indices))

    def opening(self, index: int) -> LeafOpening:
        item, receipt, leaf = self.items[index], self.receipts[index], self.leaves[index]
        works = () if leaf.reason else (OpenedWork(item.voucher, receipt.claim, item.request),)
        return LeafOpening(index, leaf, works, SumTree(self.nodes).prove(index))

    def open_all(self) -> "Batch":
        self.settle()
        self.ledger.do(self.worker, self.open(*self.draw()))
        return self

    def attest(self, checker: Checker, digests: Mapping[int, bytes] | None = None) -> AttestLeaves:
        """What a verifier says about all leaves it is drawn for: what the worker found, or these digests."""
        items = []
        for index, check in self.checks.items():
            if checker.node in [other.node for other in check.checkers]:
                digest = (digests or {}).get(index, self.receipts[index].output_digest)
                value = compute_attestation(compute_claim_id(check.claim), checker.node, digest)
                items.append(LeafAttestation(index, value))
        return AttestLeaves(self.id, tuple(items))

    def attest_all(self, digests: Mapping[int, bytes] | None = None) -> "Batch":
        for checker in self.checkers():
            self.ledger.do(self.key_of(checker), self.attest(checker, digests))
        return self

    def checkers(self) -> list[Checker]:
        """Everyone drawn for any leaf."""
        everyone = {checker.node: checker for check in self.checks.values() for checker in check.checkers}
        return [everyone[node] for node in sorted(everyone)]

    def key_of(self, checker: Checker) -> PrivateKey:
        names = {self.ledger.account(name).public: name for name in self.ledger.foundation.nodes}
        return self.ledger.account(names[checker.account])

    def reveal(self, *indices: int) -> RevealDigests:
        receipts = {index: self.receipts[index] for index in indices or self.checks}
        return RevealDigests(
            self.id, tuple(LeafDigest(index, item.salt, item.output_digest) for index, item in receipts.items())
        )

    def check_all(self, digests: Mapping[int, bytes] | None = None) -> "Batch":
        """As far as the window: opened, attested with these digests where they differ, revealed."""
        self.open_all()
        if self.checks:
            self.attest_all(digests)
            self.ledger.do(self.worker, self.reveal())
        assert self.held.phase == BatchPhase.WINDOW
        return self


def test_a_batch_whose_drawn_leaves_are_open_is_paid_after_the_window() -> None:
    ledger = Ledger(SEVERAL)
    batch = Batch(ledger, [PRICE] * 20).settle()
    channel = ledger.state.channels[batch.channel]
    assert (channel.paid, channel.settled_seq, channel.cumulative) == (20 * PRICE, 20, 20 * PRICE)
    drawn = batch.draw()
    assert len(drawn) == 2
    ledger.do(batch.worker, batch.open(*drawn))
    assert batch.held.phase == BatchPhase.ATTESTATIONS
    asked = {checker.account: 0 for checker in batch.checkers()}
    for check in batch.checks.values():
        assert len(check.checkers) == 2
        for checker in check.checkers:
            asked[checker.account] += 1
    batch.attest_all()
    assert batch.held.phase == BatchPhase.DIGESTS
    ledger.do(batch.worker, batch.reveal())
    assert batch.held.phase == BatchPhase.WINDOW
    before = ledger.state
    # Nobody was silent, so no deadline that punishes silence wakes anybody before the payout.
    assert next_due_ms(before) == before.time_ms + PARAMS.dispute_window_ms
    ledger.block(after_ms=PARAMS.dispute_window_ms)
    assert ledger.state.get_balance(batch.worker.public) - before.get_balance(batch.worker.public) == 16 * PRICE
    for account, leaves in asked.items():
        assert ledger.state.get_balance(account) - before.get_balance(account) == leaves * 20 * PRICE * 800 // 40_000
    assert ledger.state.treasury - before.treasury == 20 * PRICE * 1_000 // 10_000
    assert ledger.state.burned - before.burned == 20 * PRICE * 200 // 10_000
    assert not ledger.state.batches
    assert not ledger.state.checks
    assert next_due_ms(ledger.state) is None
    count = ledger.state.work[batch.worker.public]
    assert (count.paid, count.earned) == (2, 20 * PRICE)


@pytest.mark.parametrize("is_gone", [False, True])
def test_silence_about_one_drawn_leaf_forfeits_the_whole_batch(is_gone: bool) -> None:
    ledger = Ledger(params=ALL)
    batch = Batch(ledger, [PRICE, None, PRICE]).settle()
    payer = ledger.account("client-0")
    if is_gone:
        ledger.do(payer, CloseChannel(batch.channel))
        # The channel is gone before its batch is judged: the money goes straight to the payer.
        ledger.state = replace(ledger.state, params=replace(ALL, open_ms=10**6))
    batch.draw()
    ledger.do(batch.worker, batch.open(0, 1))
    before = ledger.state
    for _ in range(4):
        ledger.block(after_ms=10**6)
    assert not ledger.state.batches
    assert ledger.state.get_balance(batch.worker.public) == before.get_balance(batch.worker.public)
    assert ledger.state.work[batch.worker.public].void == 1
    if is_gone:
        assert not ledger.state.channels
        assert ledger.state.get_balance(payer.public) == before.get_balance(payer.public) + 100 * PRICE
    else:
        assert ledger.state.channels[batch.channel].paid == 0
        assert ledger.state.channels[batch.channel].settled_seq == 3


def test_the_seed_comes_after_the_batch_from_others_than_its_worker() -> None:
    ledger = Ledger()
    batch = Batch(ledger, [PRICE] * 3).settle()
    assert ledger.state.revealer  # of the batch's own block: its builder knew it
    ledger.block(after_ms=1)
    assert not ledger.state.batches[batch.id].seed
    before = ledger.state
    ledger.block(after_ms=1)
    held = ledger.state.batches[batch.id]
    assert held.seed == before.seed
    assert held.builders == (ledger.account("validator-0").public,)


def test_a_third_of_the_weight_must_have_revealed() -> None:
    ledger = Ledger({"validator": 4, "inference": 1, "verifier": 2, "client": 1})
    batch = Batch(ledger, [PRICE]).settle()
    for _ in range(3):
        ledger.block(after_ms=1)  # all of validator-0, a quarter
    assert len(ledger.state.batches[batch.id].builders) == 1
    assert not ledger.state.batches[batch.id].seed
    ledger.builder = "validator-1"
    ledger.block(after_ms=1)
    ledger.block(after_ms=1)
    assert ledger.state.batches[batch.id].seed


def test_a_worker_that_validates_does_not_make_its_own_seed() -> None:
    ledger = Ledger({"validator": 1, "inference": 1, "verifier": 2, "client": 1})
    batch = Batch(ledger, [PRICE]).settle()
    own = replace(ledger.state.batches[batch.id], worker=ledger.account("validator-0").public)
    ledger.state = replace(ledger.state, batches={batch.id: own})
    for _ in range(3):
        ledger.state = replace(ledger.state, tree=ledger.rebuild())
        ledger.block(after_ms=1)
    assert not ledger.state.batches[batch.id].builders
    assert next_due_ms(ledger.state) == ledger.state.time_ms + 1
    ledger.block(after_ms=PARAMS.sample_awake_ms)
    assert next_due_ms(ledger.state) is None  # nobody is kept awake for ever


def test_a_batch_follows_its_rules() -> None:
    ledger = Ledger(params=replace(PARAMS, batches_max=2))
    batch = Batch(ledger, [PRICE] * 4, deposit=4 * PRICE)
    worker, run = batch.worker, batch.body.runs[0]

    def refuse(**changes: object) -> Exception:
        return ledger.refuse(worker, BatchSettle((replace(run, **changes),), batch.root.root))  # type: ignore[arg-type]

    payer = ledger.account("client-0")
    last = run.last
    assert isinstance(ledger.refuse(worker, BatchSettle((), bytes(32))), InvalidBatch)
    assert isinstance(ledger.refuse(ledger.spare(), batch.body), UnknownNode)
    assert isinstance(ledger.refuse(ledger.account("inference-1"), batch.body), NotYourChannel)
    assert isinstance(refuse(last=sign(replace(last, channel=bytes(32)), payer)), UnknownChannel)
    gap = refuse(seq_first=2)
    assert isinstance(gap, SequenceMismatch)
    assert (gap.expected, gap.got) == (1, 2)
    assert isinstance(refuse(last=sign(replace(last, seq=0), payer)), SequenceMismatch)
    assert isinstance(refuse(last=sign(replace(last, expiry_ms=5), payer)), ExpiredVoucher)
    assert isinstance(refuse(last=replace(last, signature=bytes(64))), InvalidSignature)
    more = refuse(amount=4 * PRICE + 1)
    assert isinstance(more, VoucherExceeded)
    assert (more.limit, more.need) == (4 * PRICE, 4 * PRICE + 1)
    generous = sign(replace(last, cumulative=9 * PRICE), payer)
    assert isinstance(refuse(amount=4 * PRICE + 1, last=generous), VoucherExceeded)
    many = sign(replace(last, seq=100_001), payer)
    assert isinstance(refuse(last=many), LimitReached)
    batch.settle()
    again = ledger.refuse(worker, batch.body)
    assert isinstance(again, SequenceMismatch)
    rest = sign(replace(last, seq=5), payer)
    stale = ledger.refuse(worker, BatchSettle((RunOfBatch(5, 1, rest),), bytes(32)))
    assert isinstance(stale, VoucherExceeded)  # what was promised before is settled before


def test_a_worker_has_no_more_pending_than_its_bond_covers() -> None:
    ledger = Ledger()
    limit = compute_pending_max(ledger.state.nodes[ledger.account("inference-0").public].bond, PARAMS.sample_bp, PARAMS)
    assert limit == PARAMS.get_bond_min("inference") // 10 * 1_000 // 9_000
    Batch(ledger, [limit // 2], deposit=limit).settle()
    Batch(ledger, [limit - limit // 2], deposit=limit).settle()
    third = Batch(ledger, [1])
    error = ledger.refuse(third.worker, third.body)
    assert isinstance(error, PendingTooHigh)
    assert (error.pending, error.limit) == (limit + 1, limit)


@given(bond=st.integers(0, 10**15), slash_bp=st.integers(0, 10_000), sample_bp=st.integers(0, 9_999))
def test_what_may_be_pending_is_less_than_what_cheating_risks(bond: int, slash_bp: int, sample_bp: int) -> None:
    params = replace(PARAMS, slash_bp=slash_bp)
    gain, loss = compute_pending_max(bond, sample_bp, params), bond * slash_bp // 10_000
    assert sample_bp * loss >= (10_000 - sample_bp) * gain


@given(seed=st.binary(min_size=32, max_size=32), leaves=st.integers(1, 100_000), sample_bp=st.integers(0, 10_000))
def test_so_many_leaves_are_drawn_and_none_twice(seed: bytes, leaves: int, sample_bp: int) -> None:
    drawn = compute_drawn(seed, b"b" * 32, leaves, sample_bp)
    assert len(drawn) == len(set(drawn)) == max(1, min(SAMPLES_MAX, leaves, -(-leaves * sample_bp // 10_000)))
    assert list(drawn) == sorted(drawn)
    assert 0 <= drawn[0] <= drawn[-1] < leaves
    assert drawn == compute_drawn(seed, b"b" * 32, leaves, sample_bp)


def test_an_opening_follows_its_rules() -> None:
    ledger = Ledger(params=ALL)
    batch = Batch(ledger, [PRICE, None, 2 * PRICE])
    batch.settle()
    worker = batch.worker
    assert isinstance(ledger.refuse(worker, batch.open(0)), InvalidBatch)  # nothing is drawn yet
    assert batch.draw() == (0, 1, 2)
    assert isinstance(ledger.refuse(worker, OpenLeaves(batch.id, ())), InvalidBatch)
    assert isinstance(ledger.refuse(ledger.account("inference-1"), batch.open(0)), UnknownBatch)
    good, zero = batch.opening(0), batch.opening(1)
    (work,) = good.work
    voucher, claim, request = work.voucher, work.claim, work.request
    node, payer = ledger.node("inference-0"), ledger.account("client-0")

    def change(**parts: object) -> LeafOpening:
        return replace(good, work=(replace(work, **parts),))  # type: ignore[arg-type]

    bad: list[tuple[LeafOpening, type[Exception]]] = [
        (replace(good, index=3), InvalidBatch),
        (replace(good, index=2), InvalidLeaf),
        (replace(good, path=good.path[:1]), InvalidBatch),
        (replace(good, path=good.path[::-1]), InvalidBatch),
        (replace(good, leaf=replace(good.leaf, amount=PRICE + 1)), InvalidBatch),
        (replace(good, leaf=replace(good.leaf, claim_id=bytes(32))), InvalidBatch),
        (replace(good, leaf=replace(good.leaf, seq=2)), InvalidLeaf),
        (replace(good, work=()), InvalidLeaf),
        (change(voucher=sign(replace(voucher, amount=1), payer)), InvalidLeaf),
        (change(voucher=replace(voucher, signature=bytes(64))), InvalidSignature),
        (change(claim=sign(replace(claim, fee=1), node)), InvalidLeaf),
        (change(claim=sign(replace(claim, rows=7), node)), InvalidLeaf),
        (change(claim=replace(claim, signature=bytes(64))), InvalidSignature),
        (change(request=replace(request, nonce=bytes(16))), InvalidLeaf),
        (replace(zero, work=good.work), InvalidLeaf),
    ]
    for opening, error in bad:
        assert isinstance(ledger.refuse(worker, OpenLeaves(batch.id, (opening,))), error), opening
    ledger.do(worker, batch.open(0))
    assert isinstance(ledger.refuse(worker, batch.open(0)), AlreadyOpened)
    assert isinstance(ledger.refuse(worker, batch.open(1, 1)), AlreadyOpened)
    ledger.do(worker, batch.open(1, 2))
    assert ledger.state.batches[batch.id].opened == (0, 1, 2)


def test_a_root_that_says_less_than_the_runs_take_cannot_be_opened() -> None:
    ledger = Ledger(params=ALL)
    batch = Batch(ledger, [PRICE, None])
    greedy = replace(batch.body.runs[0], amount=2 * PRICE)
    batch.body = BatchSettle((greedy,), batch.root.root)
    batch.settle()
    batch.draw()
    assert isinstance(ledger.refuse(batch.worker, batch.open(0)), InvalidBatch)


def test_a_claim_found_wrong_forfeits_the_batch_that_holds_it() -> None:
    ledger = Ledger()
    batch = Batch(ledger, [PRICE] * 3).settle()
    Quarrel(ledger, "client-0", ledger.work(batch.channel, 2)[0]).condemn()
    assert not ledger.state.batches
    assert ledger.state.channels[batch.channel].paid == 0
    late = Batch(ledger, [PRICE]).settle()
    Quarrel(ledger, "client-0", ledger.work(batch.channel, 1)[0]).condemn()
    assert late.id in ledger.state.batches


@settings(max_examples=25, deadline=None)
@given(
    amounts=st.lists(st.one_of(st.none(), st.integers(0, 3 * PRICE)), min_size=1, max_size=12),
    opens=st.integers(0, 12),
)
def test_a_batch_is_paid_to_the_grain_or_given_back_to_the_grain(amounts: list[int | None], opens: int) -> None:
    ledger = Ledger(params=replace(ALL, bonds=PARAMS.bonds))
    batch = Batch(ledger, amounts).settle()
    drawn = batch.draw()
    opened = drawn[:opens]
    if opened:
        ledger.do(batch.worker, batch.open(*opened))
    is_paid = opened == drawn
    if is_paid and batch.checks:
        batch.attest_all()
        ledger.do(batch.worker, batch.reveal())
    before, total = ledger.state, sum(amount or 0 for amount in amounts)
    for _ in range(4):
        ledger.block(after_ms=20_000)
    after = ledger.state
    assert not after.batches
    assert after.channels[batch.channel].paid == (total if is_paid else 0)
    gained = after.get_balance(batch.worker.public) - before.get_balance(batch.worker.public)
    assert gained == (total * 8_000 // 10_000 if is_paid else 0)
