"""Every kind of transaction, in any order, and the invariants of the ledger after every block.

Where a ledger of dictionaries knows the rules too, the two must agree (`test_against_naive_ledger`); here everything is
allowed at once, and what must hold holds all the same. I1 to I15 are those of the facts on consensus and ledger.
"""

import random
from collections import Counter
from dataclasses import replace
from functools import partial

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from protocol.jobs import compute_claim_id
from protocol.keys import PrivateKey
from protocol.ledger.apply import apply_block, decode_transactions
from protocol.ledger.batches import compute_drawn
from protocol.ledger.block import get_validators
from protocol.ledger.demands import DEMAND_KIND, FORGET_KIND, DemandOpening, OpenClaim
from protocol.ledger.dispute_records import DisputePhase
from protocol.ledger.disputes import DISPUTE_KIND
from protocol.ledger.escrow import RefuseJob
from protocol.ledger.job_records import BatchPhase, Checker
from protocol.ledger.models import RetireModel
from protocol.ledger.openings import OpenLeaves
from protocol.ledger.params import Params
from protocol.ledger.randomness import grow_onion
from protocol.ledger.rows import encode_frame, list_state_rows, restore_state, update_tree
from protocol.ledger.state import State, compute_supply
from protocol.ledger.transactions import (
    CloseChannel,
    CommitOnion,
    Delegate,
    Stake,
    TopUpChannel,
    Transaction,
    Transfer,
    Undelegate,
    Unstake,
    compute_transaction_id,
)
from protocol.ledger.withheld import WITHHELD_KIND, ChallengeWithheld
from protocol.proofs.trace import Judgement
from protocol.signing import sign
from tests.protocol.ledger.test_batches import TRUTH, Batch
from tests.protocol.ledger.test_escrow import finish, order
from tests.protocol.ledger.test_evidence import equivocate
from tests.protocol.ledger.test_key_rotation import rotate
from tests.protocol.ledger.test_models import CALIBRATION, register
from tests.protocol.ledger.test_withheld import publish
from tests.support.activity import verify_activity
from tests.support.disputes import Quarrel
from tests.support.jobs import PRICE
from tests.support.ledgers import Ledger

PARAMS = replace(
    Params(),
    epoch_ms=5_000,
    epochs_kept=6,
    unbonding_ms=80_000,
    demand_ms=5_000,
    challenge_ms=10_000,
    dispute_ms=5_000,
    grace_ms=3_000,
    delegation_min=1_000,
    sample_bp=5_000,
    slash_bp=5_000,
    quality_half=10**6,  # a few leaves move it
)
VALIDATORS = tuple(f"validator-{number}" for number in range(4))
NAMES = (*VALIDATORS, "inference-0", "client-0", "verifier-0", "verifier-1")
amounts = st.one_of(st.integers(0, 3), st.integers(0, 10**9), st.integers(10**12, 2 * 10**13))
names = st.sampled_from(NAMES)
validators = st.sampled_from(VALIDATORS)
seen: Counter[str] = Counter()


class LedgerMachine(RuleBasedStateMachine):
    """One block a step, with one transaction or none, built by any validator of the epoch."""

    @initialize(seed=st.integers(0, 2**32))
    def found(self, seed: int) -> None:
        self.rng = random.Random(seed)
        roles = {"validator": 4, "inference": 1, "verifier": 2, "client": 1}
        self.ledger = Ledger(roles, PARAMS, check_signatures=False)
        self.before = self.first = self.ledger.state
        self.taken: list[Transaction] = []
        self.batches: list[Batch] = []
        self.quarrels: list[Quarrel] = []
        self.jobs: set[bytes] = set()
        self.ended: Counter[bytes] = Counter()
        self.rotations = 0

    def pass_block(self, *transactions: Transaction, after_ms: int = 50) -> bool:
        """One block on; whether it took the transactions."""
        ledger = self.ledger
        ledger.builder = self.pick_builder()
        self.before = ledger.state
        errors = ledger.block(*transactions, after_ms=after_ms)
        for key in self.before.jobs.keys() - ledger.state.jobs.keys():
            self.ended[key] += 1
        self.jobs |= ledger.state.jobs.keys()
        if not errors:
            self.taken += transactions
        return not errors

    def pick_builder(self) -> str:
        known = {self.ledger.account(name).public: name for name in VALIDATORS}
        return known[self.rng.choice(get_validators(self.ledger.state)).account]

    def send(self, name: str, body: object, tip: int = 0) -> bool:
        account = self.ledger.account(name)
        plain = self.ledger.sign(account, body)
        transaction = sign(replace(plain, fee=min(plain.fee + tip, 2**60), tip=tip), account)
        is_taken = self.pass_block(transaction if tip else plain)
        seen[f"{type(body).__name__} {'taken' if is_taken else 'refused'}"] += 1
        return is_taken

    @rule(sender=names, to=names, amount=amounts, tip=st.integers(0, 10**6))
    def transfer(self, sender: str, to: str, amount: int, tip: int) -> None:
        self.send(sender, Transfer(self.ledger.account(to).public, amount), tip)

    @rule(after_ms=st.sampled_from((1, 400, 3_000, 5_000, 12_000, 60_000, 10**7)))
    def wait(self, after_ms: int) -> None:
        self.pass_block(after_ms=after_ms)

    @rule(name=names, amount=amounts, takes=st.booleans())
    def stake(self, name: str, amount: int, takes: bool) -> None:
        self.send(name, Unstake(amount) if takes else Stake(amount))

    @rule(name=names, validator=validators, amount=amounts)
    def delegate(self, name: str, validator: str, amount: int) -> None:
        self.send(name, Delegate(self.ledger.account(validator).public, amount))

    @rule(number=st.integers(0, 9), amount=amounts, takes_all=st.booleans())
    def undelegate(self, number: int, amount: int, takes_all: bool) -> None:
        names = {self.ledger.account(name).public: name for name in NAMES}
        records = sorted(self.ledger.state.delegations.items())
        if not records:
            self.send("client-0", Undelegate(self.ledger.account("validator-0").public, amount))
            return
        _, record = records[number % len(records)]
        self.send(names[record.delegator], Undelegate(record.validator, record.amount if takes_all else amount))

    @rule(validator=validators, reporter=names)
    def convict(self, validator: str, reporter: str) -> None:
        if len(self.ledger.state.tombstones) < 2:
            self.send(reporter, equivocate(self.ledger, validator, self.ledger.state.height))

    @rule(validator=validators)
    def rotate_keys(self, validator: str) -> None:
        self.rotations += 1
        node, vote = (PrivateKey.from_seed(bytes([kind, self.rotations % 256]) * 16) for kind in (1, 2))
        self.send(validator, rotate(self.ledger, validator, node, vote))

    @rule(validator=validators, number=st.integers(0, 3))
    def commit_onion(self, validator: str, number: int) -> None:
        vote = PrivateKey.from_seed(self.ledger.foundation.nodes[validator].vote or b"")
        self.send(validator, CommitOnion(number, grow_onion(vote, number).tip))

    @property
    def can_be_attested(self) -> bool:
        """Not once a verifier has taken too much of its stake back."""
        snapshot = self.ledger.state.get_epoch(self.ledger.state.epoch)
        return snapshot is not None and len(snapshot.get_candidates("verifier")) >= 2

    @invariant()
    def checks_are_of_batches_that_are_under_way(self) -> None:
        state = self.ledger.state
        assert {key[:32] for key in state.checks} <= state.batches.keys()

    @rule(kept=st.lists(st.one_of(st.none(), st.integers(0, PRICE)), min_size=1, max_size=4), opens=st.booleans())
    def settle_batch(self, kept: list[int | None], opens: bool) -> None:
        client = self.ledger.account("client-0").public
        if self.ledger.state.get_balance(client) < 10**9 or not self.can_be_attested:
            return
        self.ledger.builder = self.pick_builder()
        batch = Batch(self.ledger, kept)
        batch.id = compute_transaction_id(self.ledger.sign(batch.worker, batch.body))
        if self.send("inference-0", batch.body):
            self.batches.append(batch)
            if opens:
                for _ in range(4):
                    self.pass_block(after_ms=1)
                self.open_leaves(1, 4)

    @rule(number=st.integers(0, 9), count=st.integers(0, 4))
    def open_leaves(self, number: int, count: int) -> None:
        """Of the latest batch mostly, whose leaves may just have been drawn; sometimes leaves that are not."""
        if not self.batches:
            return
        batch = self.batches[-1 - number % len(self.batches) if number % 2 else -1]
        held = self.ledger.state.batches.get(batch.id)
        some: tuple[int, ...] = tuple(range(min(count, len(batch.leaves))))
        if held is not None and held.seed and number < 8:
            drawn = compute_drawn(held.seed, batch.id, held.leaves, held.sample_bp)
            some = tuple(index for index in drawn if index not in held.opened)
        self.send("inference-0", batch.open(*some) if some else OpenLeaves(batch.id, ()))

    @rule(number=st.integers(0, 9), steps=st.integers(1, 4), wrong=st.booleans())
    def check_leaves(self, number: int, steps: int, wrong: bool) -> None:
        """Some of what the latest batch waits for: attestations, or its digests."""
        for step in range(number, number + steps):
            if self.batches and self.batches[-1].id in self.ledger.state.batches:
                self.check_batch(self.batches[-1], step, wrong)

    def check_batch(self, batch: Batch, number: int, wrong: bool) -> None:
        checkers = batch.checkers()
        if batch.held.phase == BatchPhase.DIGESTS:
            open_ones = [index for index, check in batch.checks.items() if not check.is_void]
            self.send("inference-0", batch.reveal(*open_ones[: number % 4 + 1]))
        elif checkers and batch.held.phase == BatchPhase.ATTESTATIONS:
            checker = checkers[number % len(checkers)]
            body = batch.attest(checker, dict.fromkeys(batch.checks, TRUTH) if wrong else None)
            self.send(self.name_of(checker), body)

    @rule(number=st.integers(0, 9), amount=st.integers(0, PRICE), answers=st.booleans())
    def challenge_withheld(self, number: int, amount: int, answers: bool) -> None:
        """About a leaf of the latest batch, whose window may be over; the worker may answer, late too."""
        if not self.batches:
            return
        batch = self.batches[-1]
        index = number % len(batch.leaves)
        if number < 8:
            self.send("client-0", ChallengeWithheld(batch.id, index, amount))
        if answers:
            self.send("inference-0", publish(batch, index))

    @invariant()
    def challenges_are_of_batches_that_are_under_way_and_hold_their_fee_until_they_are_over(self) -> None:
        state = self.ledger.state
        assert {challenge.batch for challenge in state.withheld.values()} <= state.batches.keys()
        due = {item.id for item in state.due.values() if item.kind == WITHHELD_KIND}
        for key, challenge in state.withheld.items():
            assert challenge.is_over == (challenge.fee == 0)
            assert challenge.is_over or key in due

    @rule(verifier=st.sampled_from(("verifier-0", "verifier-1")), answers=st.booleans())
    def demand_opening(self, verifier: str, answers: bool) -> None:
        """A claim whose request is over and which nobody has settled."""
        ledger = self.ledger
        if ledger.state.get_balance(ledger.account("client-0").public) < 10**9 or not self.can_be_attested:
            return
        ledger.builder = self.pick_builder()
        channel = ledger.open_channel()
        receipt, _, _ = ledger.work(channel)
        node = ledger.node("inference-0")
        claim = sign(replace(receipt.claim, deadline_ms=ledger.state.time_ms), node)
        self.send(verifier, DemandOpening(claim))
        if answers:
            self.send("inference-0", OpenClaim(compute_claim_id(claim), (replace(receipt, claim=claim),)))

    @invariant()
    def a_demand_holds_its_fee_until_it_is_over(self) -> None:
        state = self.ledger.state
        due = {item.id for item in state.due.values() if item.kind in (DEMAND_KIND, FORGET_KIND)}
        assert state.demands.keys() <= due
        assert all(demand.is_open == bool(demand.fee) for demand in state.demands.values())

    @rule(number=st.integers(0, 9), challenger=names)
    def open_dispute(self, number: int, challenger: str) -> None:
        """About a receipt of the latest batch, which may be paid or forfeit already."""
        if not self.batches:
            return
        receipts = self.batches[-1].receipts
        quarrel = Quarrel(self.ledger, challenger, receipts[number % len(receipts)])
        quarrel.id = compute_transaction_id(self.ledger.sign(quarrel.challenger, quarrel.order()))
        if self.send(challenger, quarrel.order()):
            self.quarrels.append(quarrel)

    @rule(number=st.integers(0, 9), steps=st.integers(1, 4), judgement=st.sampled_from(Judgement))
    def argue(self, number: int, steps: int, judgement: Judgement) -> None:
        """The next words in the latest dispute, and some that nobody may say now."""
        for step in range(number, number + steps):
            if self.quarrels:
                self.speak(self.quarrels[-1], step, judgement)

    def speak(self, quarrel: Quarrel, number: int, judgement: Judgement) -> None:
        challenger = next(name for name in NAMES if self.ledger.account(name).public == quarrel.challenger.public)
        words = (
            ("inference-0", quarrel.post()),
            (challenger, quarrel.name()),
            ("inference-0", quarrel.show()),
            (VALIDATORS[number % len(VALIDATORS)], quarrel.judge(judgement)),
        )
        phase = DisputePhase(number % 4) if quarrel.is_over or number == 9 else quarrel.held.phase
        self.send(*words[phase])

    @invariant()
    def a_dispute_in_the_state_has_a_deadline_and_a_bond(self) -> None:
        state = self.ledger.state
        due = {(item.id, item.kind - DISPUTE_KIND) for item in state.due.values()}
        assert all((key, dispute.phase) in due for key, dispute in state.disputes.items())
        assert all(dispute.bond == PARAMS.dispute_bond for dispute in state.disputes.values())
        assert len(state.disputes) <= PARAMS.disputes_max

    def name_of(self, checker: Checker) -> str:
        return next(name for name in NAMES if self.ledger.account(name).public == checker.account)

    @rule(number=st.integers(0, 9), amount=amounts, closes=st.booleans())
    def change_channel(self, number: int, amount: int, closes: bool) -> None:
        channels = sorted(self.ledger.state.channels)
        if channels:
            channel = channels[number % len(channels)]
            self.send("client-0", CloseChannel(channel) if closes else TopUpChannel(channel, amount))

    @rule(amount=amounts, in_ms=st.sampled_from((1, 5_000, 60_000)))
    def open_job(self, amount: int, in_ms: int) -> None:
        self.send("client-0", order(self.ledger, amount, deadline_ms=self.ledger.state.time_ms + in_ms))

    @rule(number=st.integers(0, 9), fee=st.integers(0, PRICE), refuses=st.booleans())
    def end_job(self, number: int, fee: int, refuses: bool) -> None:
        if not self.ledger.state.jobs:
            self.send("client-0", order(self.ledger, PRICE))
        jobs = sorted(self.ledger.state.jobs) if number % 2 else sorted(self.jobs)
        if not jobs:
            return
        job = jobs[number % len(jobs)]
        is_open = job in self.ledger.state.jobs
        is_refused = refuses or not is_open or not self.can_be_attested
        body = RefuseJob(job) if is_refused else finish(self.ledger, job, fee)
        assert not self.send("inference-0", body) or is_open

    @rule(name=names, model=st.integers(0, 2), version=st.integers(0, 3), form=st.sampled_from(("exact", "fp32", "")))
    def change_model(self, name: str, model: int, version: int, form: str) -> None:
        """Register a version, or have a model's owner retire the last one; either may be refused."""
        known = self.ledger.state.model_names.get(f"model-{model}")
        if not form and known is not None:
            owners = {self.ledger.account(each).public: each for each in NAMES}
            self.send(owners[known.owner], RetireModel(bytes((model, known.version)) * 16))
            return
        body = register(f"model-{model}", version, bytes((model, version)) * 16)
        self.send(name, replace(body, exact=0, calibration=(CALIBRATION,)) if form == "fp32" else body)

    @rule(number=st.integers(0, 50))
    def replay(self, number: int) -> None:
        if self.taken:
            assert not self.pass_block(self.taken[number % len(self.taken)])

    @invariant()
    def no_grain_comes_or_goes(self) -> None:
        state = self.ledger.state
        assert compute_supply(state) == state.supply == self.first.supply  # I1
        assert state.burned >= self.before.burned

    @invariant()
    def nothing_is_negative(self) -> None:
        state = self.ledger.state
        assert min(account.balance for account in state.accounts.values()) >= 0  # I2
        assert all(0 <= item.paid <= item.deposit for item in state.channels.values())  # I5
        assert all(item.amount > 0 for item in state.delegations.values())
        assert min(state.treasury, state.burned, *(node.bond for node in state.nodes.values())) >= 0

    @invariant()
    def nonces_count_what_was_taken(self) -> None:
        state = self.ledger.state
        taken = Counter(item.account for block, _, _ in self.ledger.blocks for item in decode_transactions(block))
        assert taken == Counter({key: item.nonce for key, item in state.accounts.items() if item.nonce})  # I3

    @invariant()
    def a_job_ends_once_and_is_open_until_then(self) -> None:
        assert all(count == 1 for count in self.ended.values())  # I6
        assert self.jobs - self.ended.keys() == self.ledger.state.jobs.keys()

    @invariant()
    def stake_taken_back_does_not_come_early(self) -> None:
        state = self.ledger.state
        for key in self.before.unbonding.keys() - state.unbonding.keys():  # I7
            due = [item for item in self.before.due.values() if item.id == key]
            assert [item.time_ms <= state.time_ms for item in due] == [True]

    @invariant()
    def the_base_fee_moves_by_an_eighth_a_block_and_falls_asleep(self) -> None:
        fee, before = self.ledger.state.base_fee, self.before.base_fee
        assert PARAMS.base_fee_min <= fee <= before + max(1, before // 8)  # I10

    @invariant()
    def sums_and_owners_follow_from_the_records(self) -> None:
        state = self.ledger.state
        for validator, pool in state.pools.items():
            records = [item.amount for item in state.delegations.values() if item.validator == validator]
            assert (pool.delegated, pool.delegators) == (sum(records), len(records))
            assert 0 < len(records) <= 256
        for record in state.nodes.values():
            assert state.node_owners[record.node].account == record.account
        assert all(item.account in state.nodes for item in get_validators(state))
        assert {item.vote for item in get_validators(state)} <= state.vote_owners.keys()

    @invariant()
    def names_follow_from_the_models_that_have_them(self) -> None:
        models = list(self.ledger.state.models.values())
        for name, entry in self.ledger.state.model_names.items():
            versions = [model.version for model in models if model.name == name]
            assert (entry.versions, {model.owner for model in models if model.name == name}) == (
                len(versions),
                {entry.owner},
            )
            assert max(versions) <= entry.version
            assert len(set(versions)) == len(versions)
        assert {model.name for model in models} == self.ledger.state.model_names.keys()

    @invariant()
    def models_do_not_change_but_by_being_retired(self) -> None:
        for digest, before in self.before.models.items():
            after = self.ledger.state.models.get(digest)
            if after != before:
                assert after is None or (replace(after, retired_ms=0) == before and not before.retired_ms)
                assert after is not None or before.retired_ms + PARAMS.unbonding_ms <= self.ledger.state.time_ms

    @invariant()
    def weights_are_those_of_the_snapshot(self) -> None:
        state = self.ledger.state
        if state.epoch == self.before.epoch:
            assert get_validators(state) == get_validators(self.before)  # I14
        else:
            stakes = {account: node.bond for account, node in state.nodes.items()}
            for account, pool in state.pools.items():
                stakes[account] += pool.delegated
            chosen = get_validators(state)
            assert [item.weight for item in chosen] == [stakes[item.account] for item in chosen]

    @invariant()
    def the_tree_is_the_one_built_anew(self) -> None:
        state = self.ledger.state
        assert state.tree == update_tree(None, list_state_rows(state))  # I11

    def teardown(self) -> None:
        if not hasattr(self, "ledger"):
            return
        state: State = self.first
        for block, _, after in self.ledger.blocks:
            state = apply_block(state, block, check_signatures=False)  # I12
            assert state == after
        assert restore_state(encode_frame(state), list_state_rows(state)) == state  # I15
        verify_activity(self.first, self.ledger.blocks)


LedgerMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
TestLedgerMachine = LedgerMachine.TestCase


def walk(machine: LedgerMachine, seed: int, steps: int) -> None:
    """Any rule after any other, each as likely: Hypothesis prefers to repeat a few, and to make do with little."""
    rng = random.Random(seed)
    machine.found(seed)
    for _ in range(steps):
        number, is_so = rng.randrange(10), rng.random() < 0.5
        amount = rng.choice((0, 10**6, rng.randrange(10**9), 10**12 + rng.randrange(10**13)))
        name, validator = rng.choice(NAMES), rng.choice(VALIDATORS)
        rng.choice(
            (
                partial(machine.transfer, name, rng.choice(NAMES), amount, tip=0),
                partial(machine.wait, rng.choice((1, 400, 5_000))),
                partial(machine.stake, name, amount, takes=False),
                partial(machine.stake, name, amount // 1_000, takes=True),
                partial(machine.delegate, name, validator, amount),
                partial(machine.undelegate, number, amount, takes_all=is_so),
                partial(machine.rotate_keys, validator),
                partial(machine.commit_onion, validator, number % 4),
                partial(machine.settle_batch, rng.choices((None, 1, PRICE), k=3), opens=True),
                partial(machine.open_leaves, number, number % 5),
                partial(machine.check_leaves, number, 4, wrong=is_so),
                partial(machine.check_leaves, number, 2, wrong=is_so),
                partial(machine.demand_opening, f"verifier-{number % 2}", answers=is_so),
                partial(machine.challenge_withheld, number, amount % PRICE + 1, answers=is_so),
                partial(machine.open_dispute, number, name),
                partial(machine.argue, number, 4, rng.choice(tuple(Judgement))),
                partial(machine.argue, number, 4, Judgement.WRONG),
                partial(machine.change_channel, number, amount, closes=is_so),
                partial(machine.open_job, amount % 10**9, 60_000),
                partial(machine.end_job, number, number, refuses=is_so),
                partial(machine.change_model, name, number % 3, number // 3, rng.choice(("exact", "fp32", ""))),
            )
        )()
    if seed % 4 == 0:
        machine.convict(VALIDATORS[0], NAMES[-1])


def test_the_machine_gets_around() -> None:
    """Every kind it can send is taken by the ledger somewhere, and most are refused somewhere."""
    seen.clear()
    for seed in range(20):
        if has_got_around():
            break
        machine = LedgerMachine()
        walk(machine, seed, steps=60)
        machine.no_grain_comes_or_goes()
        machine.the_tree_is_the_one_built_anew()
        machine.teardown()
    assert has_got_around(), seen


def has_got_around() -> bool:
    taken, refused = ({name.split()[0] for name in seen if name.endswith(f" {how}")} for how in ("taken", "refused"))
    return taken == {name.split()[0] for name in seen} and len(taken) == 28 and len(refused) >= 16
