"""Leases in any order: offers, payers, nodes that accept, leave, answer, lie or are silent, and what must always hold.

No grain comes or goes, nothing is paid without a proof, no proof is paid twice, what a term promises is there, and the
room that is let is the room that is taken.
"""

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from protocol.audit import Piece
from protocol.ledger.lease_audits import ANSWER_KIND, AnswerAudit, get_drawn
from protocol.ledger.lease_records import Lease
from protocol.ledger.leases import (
    AUDIT_KIND,
    HOUR_MS,
    MIB,
    KeepBlob,
    LeaseBlob,
    OfferSpace,
    compute_lease_id,
    compute_term_cost,
)
from protocol.ledger.state import compute_supply
from protocol.ledger.transactions import Stake, Unstake
from tests.support.activity import verify_activity
from tests.support.leases import PRICE, Blob, Leases

STORES = 5
BLOBS = tuple(Blob(bytes([number]) * size, chunk=9_000) for number, size in enumerate((0, 5_000, 60_000)))
PAYERS = ("client-0", "storage-0")
stores = st.integers(0, STORES - 1)
blobs = st.sampled_from(BLOBS)


class LeaseMachine(RuleBasedStateMachine):
    """One block a step, with one transaction or none."""

    @initialize()
    def found(self) -> None:
        self.net = Leases(STORES)
        self.first = self.net.ledger.state
        self.count = len(self.net.ledger.blocks)
        self.accounts = list(self.net.names)
        self.earned: Counter[bytes] = Counter()
        self.paid: set[tuple[bytes, bytes, int]] = set()  # lease, node and the beginning of the audit

    @property
    def leases(self) -> list[tuple[bytes, Lease]]:
        return sorted(self.net.ledger.state.leases.items())

    def find_blob(self, lease: Lease) -> Blob:
        return next(blob for blob in BLOBS if blob.cid.pack() == lease.cid)

    def send(self, name: str, body: object) -> bool:
        return not self.net.ledger.block(self.net.ledger.sign(self.net.ledger.account(name), body))

    @rule(store=stores, room=st.sampled_from((0, 20_000, 10**6)), price=st.sampled_from((0, PRICE, PRICE + 1)))
    def offer(self, store: int, room: int, price: int) -> None:
        self.send(f"storage-{store}", OfferSpace(room, price))

    @rule(
        payer=st.sampled_from(PAYERS),
        blob=blobs,
        factor=st.integers(1, 3),
        periods=st.integers(1, 3),
        renews=st.integers(0, 1),
        terms=st.integers(0, 3),
    )
    def lease(self, payer: str, blob: Blob, factor: int, periods: int, renews: int, terms: int) -> None:
        cost = compute_term_cost(blob.contents.size_bytes, PRICE, factor, periods, self.net.params)
        self.send(payer, LeaseBlob(blob.cid.pack(), blob.contents, PRICE, factor, periods, renews, cost * terms))

    @precondition(lambda self: self.leases)
    @rule(number=st.integers(0, 9), keeps=st.booleans())
    def accept(self, number: int, keeps: bool) -> None:
        """All that are drawn for one lease, or the first of them declines."""
        key, lease = self.leases[number % len(self.leases)]
        for replica in lease.replicas:
            if not replica.height:
                self.send(self.net.names[replica.account], KeepBlob(key, int(keeps)))
                if not keeps:
                    return

    @precondition(lambda self: self.leases)
    @rule(number=st.integers(0, 9), store=stores, keeps=st.integers(0, 1))
    def speak_out_of_turn(self, number: int, store: int, keeps: int) -> None:
        key, _ = self.leases[number % len(self.leases)]
        self.send(f"storage-{store}", KeepBlob(key, keeps))

    @precondition(lambda self: self.leases)
    @rule(number=st.integers(0, 9), count=st.integers(1, 4), is_right=st.booleans())
    def answer(self, number: int, count: int, is_right: bool) -> None:
        """So many nodes of a lease answer, each twice over, or show pieces with one bit that is not theirs."""
        key, lease = self.leases[number % len(self.leases)]
        for replica in lease.replicas[:count]:
            held = self.net.ledger.state.leases.get(key)
            if held is None:
                return
            body = self.net.answer(key, replica.account, self.find_blob(held))
            if is_right:
                self.tell(key, held, replica.account, body)
                assert not self.send(self.net.names[replica.account], body)
            else:
                self.tell(key, held, replica.account, AnswerAudit(key, (spoil(body.answer[0]), *body.answer[1:])))

    def tell(self, key: bytes, lease: Lease, account: bytes, body: AnswerAudit) -> None:
        """Send an answer, and count what it must bring if the ledger takes it."""
        if not self.send(self.net.names[account], body):
            return
        since_ms = next(item.since_ms for item in lease.replicas if item.account == account)
        if (
            not lease.seed
        ):  # the audit began in the block that took the answer: of a single piece any seed draws that one
            lease = self.net.ledger.state.leases[key]
        assert lease.seed
        assert [piece.data for piece in body.answer] == self.cut(lease, get_drawn(key, lease, account))
        assert (key, account, lease.asked_ms) not in self.paid
        self.paid.add((key, account, lease.asked_ms))
        time_ms = min(lease.asked_ms - since_ms, self.net.params.audit_ms)
        kept = lease.contents.size_bytes * lease.price * time_ms // (MIB * HOUR_MS)
        self.earned[account] += kept + self.net.params.audit_fee

    def cut(self, lease: Lease, indices: tuple[int, ...]) -> list[bytes]:
        """The pieces by a way of their own: all blocks one after the other, each cut by itself."""
        blob = self.find_blob(lease)
        blocks = [blob.blocks[cid.digest] for cid in blob.tree.cids]
        pieces = [block[at : at + 4_096] for block in blocks for at in range(0, max(len(block), 1), 4_096)]
        return [pieces[index] for index in indices]

    @rule(after_ms=st.sampled_from((1, 5_000, 10_000, 15_000, 30_000, 200_000)))
    def wait(self, after_ms: int) -> None:
        self.net.ledger.block(after_ms=after_ms)

    @rule(store=stores, takes=st.booleans())
    def stake(self, store: int, takes: bool) -> None:
        self.send(f"storage-{store}", Unstake(10**9) if takes else Stake(10**9))

    @invariant()
    def no_grain_comes_or_goes(self) -> None:
        state = self.net.ledger.state
        assert compute_supply(state) == self.first.supply
        assert all(lease.balance >= 0 for lease in state.leases.values())

    @invariant()
    def nothing_is_paid_but_for_proofs(self) -> None:
        work = self.net.ledger.state.work
        assert {account: count.earned for account, count in work.items() if count.earned} == dict(self.earned)

    @invariant()
    def what_a_term_promises_is_there(self) -> None:
        params = self.net.params
        for _, lease in self.leases:
            size_bytes, asked = lease.contents.size_bytes, sum(item.is_asked for item in lease.replicas)
            term = compute_term_cost(size_bytes, lease.price, lease.factor, lease.left, params)
            assert lease.balance >= term + compute_term_cost(size_bytes, lease.price, asked, 1, params)

    @invariant()
    def room_is_taken_once_for_each_replica(self) -> None:
        taken: Counter[bytes] = Counter()
        for _, lease in self.leases:
            for replica in lease.replicas:
                taken[replica.account] += lease.contents.size_bytes
        offers = self.net.ledger.state.offers
        assert {account: offer.leased_bytes for account, offer in offers.items()} == {
            account: taken[account] for account in offers
        }

    @invariant()
    def no_lease_has_more_nodes_than_it_pays_for(self) -> None:
        for _, lease in self.leases:
            accounts = [replica.account for replica in lease.replicas]
            assert len(set(accounts)) == len(accounts)
            assert lease.payer not in accounts
            assert sum(replica.height > 0 for replica in lease.replicas) <= lease.factor
            assert sum(not replica.misses for replica in lease.replicas) <= lease.factor
            assert all(replica.misses <= self.net.params.audit_misses_max for replica in lease.replicas)

    @invariant()
    def every_lease_has_its_next_step_before_it(self) -> None:
        state = self.net.ledger.state
        steps = Counter(item.id for item in state.due.values() if item.kind in (AUDIT_KIND, ANSWER_KIND))
        assert steps == Counter(state.leases.keys())
        for key, lease in state.leases.items():
            assert key == compute_lease_id(lease.payer, lease.cid)
            assert bool(lease.seed) or not any(item.is_asked for item in lease.replicas)

    def teardown(self) -> None:
        """Left alone, every lease comes to its end and gives back what is left."""
        if not hasattr(self, "net"):
            return
        for _ in range(40):
            self.net.ledger.block(after_ms=self.net.params.audit_ms)
        assert not self.net.ledger.state.leases
        self.room_is_taken_once_for_each_replica()
        self.nothing_is_paid_but_for_proofs()
        verify_activity(self.first, self.net.ledger.blocks[self.count :])


def spoil(piece: Piece) -> Piece:
    data = piece.data
    return Piece(bytes([data[0] ^ 1]) + data[1:] if data else b"x", piece.path)


LeaseMachine.TestCase.settings = settings(max_examples=6, stateful_step_count=20, deadline=None)
TestLeaseMachine = LeaseMachine.TestCase


def test_the_machine_gets_around() -> None:
    """What it is about does happen in it: nodes accept, answer and are paid."""
    machine = LeaseMachine()
    machine.found()
    machine.lease("client-0", BLOBS[2], factor=2, periods=2, renews=1, terms=2)
    machine.accept(0, keeps=True)
    machine.wait(1)
    machine.wait(30_000)
    machine.answer(0, 4, is_right=False)
    assert not machine.paid
    machine.answer(0, 4, is_right=True)
    assert len(machine.paid) == 2
    machine.nothing_is_paid_but_for_proofs()
    machine.what_a_term_promises_is_there()
    machine.teardown()
