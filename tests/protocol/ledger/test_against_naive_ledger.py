"""Random histories: the ledger and a naive one of dictionaries agree on every grain, and every invariant holds."""

import random
from collections import Counter
from dataclasses import replace
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from protocol.codec import encode
from protocol.jobs import Receipt
from protocol.keys import PrivateKey
from protocol.ledger.apply import apply_block, build_block
from protocol.ledger.disputes import OpenDispute
from protocol.ledger.escrow import OpenJob, RefuseJob, SettleJob
from protocol.ledger.fees import count_units
from protocol.ledger.genesis import build_state
from protocol.ledger.params import Params
from protocol.ledger.records import Pool
from protocol.ledger.rows import encode_frame, list_state_rows, restore_state, update_tree
from protocol.ledger.state import State, compute_state_root, compute_supply
from protocol.ledger.transactions import (
    ChannelOpening,
    CloseChannel,
    Delegate,
    OpenChannels,
    Stake,
    TopUpChannel,
    Transaction,
    Transfer,
    Undelegate,
    Unstake,
    Work,
    ZeroReason,
    compute_channel_id,
    compute_transaction_id,
)
from tests.protocol.ledger.test_escrow import finish, order
from tests.support.ledgers import Ledger
from tests.support.naive_ledger import NaiveLedger

# Epochs end only when all sleep, and everybody is drawn in each: that is another test's matter.
EPOCH_MS = 10**9
PARAMS = replace(
    Params(),
    epoch_ms=EPOCH_MS,
    unbonding_ms=16 * EPOCH_MS,
    settle_window_ms=1_000,
    dispute_ms=1_000,
    challenge_ms=EPOCH_MS,
    dispute_bond=10**9,
    channel_close_delay_ms=2_000,
    grace_ms=500,
    delegation_min=1_000,
    bonds=(),
)
NAMES = ("client-0", "inference-0", "inference-1", "verifier-0", "validator-0")
ACTS = (
    "transfer", "stake", "unstake", "delegate", "undelegate", "open", "top_up", "close", "settle", "dispute", "order",
    "finish", "refuse",
)  # fmt: skip
KINDS = (*ACTS, "wait", "sleep", "replay")
seen: Counter[tuple[str, bool]] = Counter()


class History:
    """Both ledgers, and what has been signed so far."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.ledger = Ledger({"validator": 1, "inference": 2, "verifier": 3, "client": 1}, PARAMS, False)
        state = self.ledger.state
        self.naive = NaiveLedger(
            {account: item.balance for account, item in state.accounts.items()},
            {account: node.bond for account, node in state.nodes.items()},
            self.ledger.account("validator-0").public,
            state.time_ms,
        )
        self.channels: list[bytes] = []
        self.jobs: list[bytes] = []
        self.lies: list[tuple[int, Receipt, bytes]] = []
        self.lied = 0
        self.last: Transaction | None = None

    def amount(self, around: int) -> int:
        """Mostly little, so that nobody is broke after three steps; now and then all there is, or a grain more."""
        little = self.rng.randrange(1, 10**9)
        seldom = self.rng.choice((0, around, around + 1))
        return max(0, self.rng.choice((1, seldom, *[little] * 4, *[around // 50] * 2)))

    def step(self, kind: str) -> None:
        after_ms = self.rng.choice((1, 1, 300, 1_500)) if kind != "sleep" else 9 * EPOCH_MS
        self.naive.pass_time(self.ledger.state.time_ms + after_ms, PARAMS.grace_ms)
        self.naive.units, self.naive.tip = 1, self.rng.choice((0, 0, 0, 1, 10**6))
        name = self.pick_name(kind)
        signer = self.ledger.account(name)
        before = self.ledger.state
        body, is_allowed = getattr(self, f"_{kind}")(name, signer.public)
        transactions = [self.sign(signer, body)] if body is not None else []
        if kind == "replay" and self.last is not None:
            transactions = [self.last]
        errors = self.ledger.block(*transactions, after_ms=after_ms)
        assert (not errors) is is_allowed or not transactions, (kind, body, errors)
        if transactions:
            seen[kind, is_allowed] += 1
        if is_allowed and transactions:
            self.last = transactions[0]
            if kind == "open":
                self.channels.append(compute_channel_id(compute_transaction_id(transactions[0]), 0))
            elif kind == "order":
                self.jobs.append(compute_transaction_id(transactions[0]))
        self.compare(before)

    def pick_name(self, kind: str) -> str:
        """Anybody; mostly one whose job it is, where only one may do it."""
        payees = {job[1] for job in self.naive.jobs.values()} if kind in ("finish", "refuse") else set()
        some = [name for name in NAMES if self.ledger.account(name).public in payees]
        return self.rng.choice(some if some and self.rng.random() < 0.8 else NAMES)

    def sign(self, signer: PrivateKey, body: object) -> Transaction:
        """Signatures aside, which nobody looks at here."""
        plain, tip = self.ledger.sign(signer, body), self.naive.tip
        return replace(plain, fee=plain.fee + tip, tip=tip)

    def count_units(self, signer: PrivateKey, body: object) -> int:
        return count_units(len(encode(self.sign(signer, body))))

    def _wait(self, name: str, account: bytes) -> tuple[None, bool]:
        return None, True

    def _sleep(self, name: str, account: bytes) -> tuple[None, bool]:
        self.lies.clear()  # so that none is older than the epochs kept
        self.naive.pay_rewards()
        return None, True

    def _delegate(self, name: str, account: bytes) -> tuple[Delegate, bool]:
        validator = self.ledger.account(self.rng.choice(("validator-0",) * 5 + ("inference-0",))).public
        amount = self.amount(self.naive.balances[account] - PARAMS.base_fee_min)
        return Delegate(validator, amount), self.naive.delegate(account, validator, amount, PARAMS.delegation_min)

    def _undelegate(self, name: str, account: bytes) -> tuple[Undelegate, bool]:
        validator = self.naive.builder
        amount = self.amount(self.naive.delegated.get((validator, account), 0))
        least, delay_ms = PARAMS.delegation_min, PARAMS.unbonding_ms
        return Undelegate(validator, amount), self.naive.undelegate(account, validator, amount, least, delay_ms)

    def _replay(self, name: str, account: bytes) -> tuple[None, bool]:
        return None, self.last is None

    def _transfer(self, name: str, account: bytes) -> tuple[Transfer, bool]:
        to = self.rng.choice((self.ledger.spare().public, b"\x07" * 32, account))
        amount = self.amount(self.naive.balances[account] - PARAMS.base_fee_min)
        return Transfer(to, amount), self.naive.transfer(account, to, amount)

    def _stake(self, name: str, account: bytes) -> tuple[Stake, bool]:
        amount = self.amount(self.naive.balances[account] - PARAMS.base_fee_min)
        return Stake(amount), self.naive.stake(account, amount)

    def _unstake(self, name: str, account: bytes) -> tuple[Unstake, bool]:
        amount = self.amount(self.naive.bonds[account])
        return Unstake(amount), self.naive.unstake(account, amount, PARAMS.unbonding_ms)

    def _open(self, name: str, account: bytes) -> tuple[OpenChannels, bool]:
        payee = self.ledger.account(self.rng.choice(("inference-0", "inference-1"))).public
        deposit = self.amount(self.naive.balances[account] - PARAMS.base_fee_min)
        allowed = self.naive.open(len(self.channels), account, payee, deposit)
        return OpenChannels((ChannelOpening(payee, deposit),)), allowed

    def _top_up(self, name: str, account: bytes) -> tuple[TopUpChannel | None, bool]:
        if not self.channels:
            return None, True
        number = self.rng.randrange(len(self.channels))
        amount = self.amount(self.naive.balances[account] - PARAMS.base_fee_min)
        return TopUpChannel(self.channels[number], amount), self.naive.top_up(number, account, amount)

    def _close(self, name: str, account: bytes) -> tuple[CloseChannel | None, bool]:
        if not self.channels:
            return None, True
        number = self.rng.randrange(len(self.channels))
        allowed = self.naive.close(number, account, PARAMS.channel_close_delay_ms)
        return CloseChannel(self.channels[number]), allowed

    def _settle(self, name: str, account: bytes) -> tuple[Any, bool]:
        if not self.channels:
            return None, True
        number = self.rng.randrange(len(self.channels))
        channel, known = self.channels[number], self.naive.channels.get(number)
        worker = name if name.startswith("inference") else "inference-0"
        next_seq: Any = 1 if known is None else known["seq"] + 1  # type: ignore[operator]
        first = next_seq + self.rng.choice((0, 0, 0, 0, 1))
        leaves: list[Work | ZeroReason] = []
        amounts: list[int | None] = []
        verifiers: list[list[bytes]] = []
        for seq in range(first, first + self.rng.randrange(1, 4)):
            if self.rng.random() < 0.3:
                leaves.append(ZeroReason.UNATTESTED)
                amounts.append(None)
                continue
            amount = self.rng.choice((0, 1, 12_345, 10**6))
            _, attestations, work = self.ledger.work(channel, seq, worker, amount=amount, cumulative=10**15)
            leaves.append(work)
            amounts.append(amount)
            records = [self.ledger.state.find_node(item.verifier) for item in attestations]
            verifiers.append([record.account for record in records if record is not None])
        body = self.ledger.settle(channel, *leaves, first=first)
        # A worker settles claims of its own node; anyone may settle its channels' zero leaves.
        if any(amount is not None for amount in amounts) and name != worker:
            return body, False
        self.naive.units = self.count_units(self.ledger.account(name), body)
        allowed = self.naive.settle(number, account, first, amounts, verifiers, PARAMS.settle_window_ms)
        return body, allowed

    def _order(self, name: str, account: bytes) -> tuple[OpenJob, bool]:
        payee = self.ledger.account(self.rng.choice((*["inference-0", "inference-1"] * 3, "client-0"))).public
        amount = self.amount(self.naive.balances[account] - PARAMS.base_fee_min)
        in_ms = self.rng.choice((0, 1_500, *[10**6] * 6, PARAMS.job_ms_max, PARAMS.job_ms_max + 1))
        body = order(self.ledger, amount, payee=payee, deadline_ms=self.naive.time_ms + in_ms)
        return body, self.naive.order(len(self.jobs), account, payee, amount, in_ms, PARAMS.job_ms_max)

    def pick_job(self, account: bytes) -> int:
        """One of the account's that is open, if there is any."""
        own = [number for number, job in self.naive.jobs.items() if job[1] == account]
        return self.rng.choice(own or range(len(self.jobs)))

    def _refuse(self, name: str, account: bytes) -> tuple[RefuseJob | None, bool]:
        if not self.jobs:
            return None, True
        number = self.pick_job(account)
        return RefuseJob(self.jobs[number]), self.naive.refuse(number, account)

    def _finish(self, name: str, account: bytes) -> tuple[SettleJob | RefuseJob | None, bool]:
        if not self.naive.jobs:
            return self._refuse(name, account)
        number = self.pick_job(account)
        if number not in self.naive.jobs:
            return self._refuse(name, account)
        job = self.jobs[number]
        held = self.ledger.state.jobs[job]
        worker = next(name for name in NAMES if self.ledger.account(name).public == held.payee)
        fee = self.rng.choice((0, 1, held.amount // 2, held.amount, held.amount + 1))
        body = finish(self.ledger, job, fee, worker)
        if not worker.startswith("inference"):
            return body, False  # a client was asked, who serves no model
        records = [self.ledger.state.find_node(item.verifier) for item in body.attestations]
        verifiers = [record.account for record in records if record is not None]
        self.naive.units = self.count_units(self.ledger.account(name), body)
        return body, self.naive.finish(number, account, fee, verifiers, PARAMS.settle_window_ms)

    def _dispute(self, name: str, account: bytes) -> tuple[Any, bool]:
        """Of workers that are silent once a claim of theirs is disputed."""
        if not self.channels:
            return None, True
        if not self.lies or self.rng.random() < 0.5:
            worker = self.rng.choice(("inference-0", "inference-1"))
            self.lied += 1
            receipt = self.ledger.work(self.channels[0], self.lied, worker)[0]
            self.lies.append((self.lied, receipt, self.ledger.account(worker).public))
        lie, receipt, accused = self.rng.choice(self.lies)
        body = OpenDispute((receipt,), (), b"\x01" * 32, "other")
        self.naive.units = self.count_units(self.ledger.account(name), body)
        key = compute_transaction_id(self.sign(self.ledger.account(name), body))
        allowed = self.naive.dispute(lie, accused, account, PARAMS.dispute_bond, PARAMS.dispute_ms, key)
        return body, allowed

    def compare(self, before: State) -> None:
        state, naive = self.ledger.state, self.naive
        assert {account: item.balance for account, item in state.accounts.items()} == naive.balances
        assert {account: node.bond for account, node in state.nodes.items()} == naive.bonds
        assert {account: state.get_nonce(account) for account in naive.nonces} == naive.nonces
        assert sorted(item.amount for item in state.unbonding.values()) == sorted(item[3] for item in naive.unbonding)  # type: ignore[type-var]
        assert {(item.validator, item.delegator): item.amount for item in state.delegations.values()} == naive.delegated
        pool = state.pools.get(naive.builder) or Pool(0, 0, 0)
        assert pool == Pool(sum(naive.delegated.values()), len(naive.delegated), naive.rewards)
        assert (state.treasury, state.burned) == (naive.treasury, naive.burned)
        assert len(state.pending) == len(naive.pending)
        assert compute_supply(state) == naive.supply() == state.supply == before.supply  # I1
        for number, channel in naive.channels.items():
            held = state.channels[self.channels[number]]
            assert (held.deposit, held.paid, held.settled_seq) == (channel["deposit"], channel["paid"], channel["seq"])
            assert 0 <= held.paid <= held.deposit  # I2, I5
        assert state.burned >= before.burned
        assert all(item.balance >= 0 for item in state.accounts.values())  # I2
        # I11: the tree that grew with the blocks is the one built anew.
        assert state.tree == update_tree(None, list_state_rows(state))


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32), kinds=st.lists(st.sampled_from(KINDS), min_size=5, max_size=25))
@example(seed=9189, kinds=["settle", "finish", "order", "finish", "transfer"])
@example(seed=326, kinds=["transfer", "wait", "transfer", "stake", "unstake", "sleep"])
def test_a_random_history_agrees_with_the_naive_ledger(seed: int, kinds: list[str]) -> None:
    history = History(random.Random(seed))
    for kind in ("open", *kinds):
        history.step(kind)
    ledger = history.ledger
    assert restore_state(encode_frame(ledger.state), list_state_rows(ledger.state)) == ledger.state  # I15
    state = build_state(ledger.foundation.genesis)
    for block, _, after in ledger.blocks:  # I12
        state = apply_block(state, block, check_signatures=False)
        assert compute_state_root(state) == compute_state_root(after)


def test_a_long_history_meets_every_operation_both_allowed_and_refused() -> None:
    history = History(random.Random(7))
    seen.clear()
    for _ in range(600):
        history.step(history.rng.choice(KINDS))
    for kind in ACTS:
        assert min(seen[kind, True], seen[kind, False]) > 0, (kind, seen)


@settings(max_examples=20, deadline=None)
@given(order=st.permutations(range(6)))
def test_the_order_of_independent_transactions_changes_no_balance(order: list[int]) -> None:
    ledger = Ledger()
    transfers = [ledger.sign(ledger.spare(index), Transfer(bytes([index]) * 32, 10 + index)) for index in range(6)]
    builder = ledger.account("validator-0").public
    time_ms = ledger.state.time_ms + 1
    _, straight, _ = build_block(ledger.state, transfers, time_ms, builder)
    _, shuffled, dropped = build_block(ledger.state, [transfers[index] for index in order], time_ms, builder)
    assert not dropped
    assert compute_state_root(shuffled) == compute_state_root(straight)  # I13
