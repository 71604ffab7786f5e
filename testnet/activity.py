"""What a ledger's blocks say its network is used for, summed up while they are recomputed one after the other.

Memory is bounded by the ledger's own: a number for each account, model and app, whatever the blocks hold.
"""

from collections import Counter, deque
from dataclasses import dataclass, field

from protocol.ledger.apply import decode_transactions
from protocol.ledger.apps import BuyPass
from protocol.ledger.batches import BatchSettle, SettlePrivate
from protocol.ledger.block import Block
from protocol.ledger.escrow import SettleJob
from protocol.ledger.flows import Flow, Party, Source
from protocol.ledger.leases import LeaseBlob
from protocol.ledger.state import State
from protocol.ledger.transactions import SettleIndividual, Transaction
from testnet.cohorts import Cohorts
from testnet.payments import Payments

JOB, INDIVIDUAL, BATCH, PRIVATE = "job", "individual", "batch", "private"


@dataclass
class ModelUse:
    """Receipts the ledger has seen whole, and what they cost, in grains."""

    receipts: int = 0
    fees: int = 0


@dataclass
class Activity:
    """Give `take` to `recompute`. `settled` and `checked` count receipts by mode, `flows` grains by source and party.

    A customer has paid for work, or bought a pass or a lease; every account that has signed a transaction is active.
    Of a batch the ledger sees only those receipts that were drawn; the others count when it is paid out.
    """

    genesis: State | None = None
    state: State | None = None
    blocks: int = 0
    transactions: Counter[str] = field(default_factory=Counter)  # by kind
    accounts: Cohorts = field(default_factory=Cohorts)
    customers: Cohorts = field(default_factory=Cohorts)
    settled: Counter[str] = field(default_factory=Counter)
    checked: Counter[str] = field(default_factory=Counter)
    void: int = 0  # vouchers that ended without work
    forfeit: int = 0  # receipts of batches that were
    models: dict[bytes, ModelUse] = field(default_factory=dict)
    in_batches: ModelUse = field(default_factory=ModelUse)
    flows: Counter[tuple[Source, Party]] = field(default_factory=Counter)
    app_flows: Counter[tuple[str, Party]] = field(default_factory=Counter)
    earners: dict[Party, set[bytes]] = field(default_factory=dict)
    payments: Payments = field(default_factory=lambda: Payments(deque(maxlen=0)))
    proven_wrong: int = 0
    tombstones: int = 0

    def take(self, before: State, block: Block, after: State) -> None:
        """Count what one block changed."""
        self.genesis, self.state = self.genesis or before, after
        self.blocks += 1
        for transaction in decode_transactions(block):
            self._take_transaction(before, after, transaction)
        self._take_changes(before, after)
        for flow in after.flows:  # after the receipts: those seen whole have named their models
            self._take_flow(flow)
        self.payments.take(before, block, after)

    def _take_transaction(self, before: State, after: State, transaction: Transaction) -> None:
        body = transaction.content
        self.transactions[type(body).__name__] += 1
        self.accounts.note(transaction.account, before.epoch)
        match body:
            case SettleIndividual(runs):
                for run in runs:
                    works = [leaf.work[0] for leaf in run.leaves if leaf.work]
                    self.void += len(run.leaves) - len(works)
                    for work in works:
                        self._count(INDIVIDUAL, work.claim.model, work.voucher.amount)
                    if works:
                        self._pay(before, after, run.channel)
            case SettleJob(job, claim):
                self._count(JOB, claim.model, claim.fee)
                self._be_customer(before.jobs[job].payer if job in before.jobs else transaction.account, before.epoch)
            case BatchSettle() | SettlePrivate():
                if isinstance(body, SettlePrivate):
                    leaves = sum(run.last.seq - run.seq_first + 1 for run in body.runs)
                    self.settled[PRIVATE] += leaves
                    self.in_batches.receipts += leaves
                for span in body.runs:
                    if span.amount:
                        self._pay(before, after, span.last.channel)
            case BuyPass() | LeaseBlob():
                self._be_customer(transaction.account, before.epoch)

    def _count(self, mode: str, model: bytes, fee: int) -> None:
        """One receipt that stands whole in its block: all its verifiers have attested it."""
        self.settled[mode] += 1
        self.checked[mode] += 1
        use = self.models.setdefault(model, ModelUse())
        use.receipts += 1
        use.fees += fee

    def _pay(self, before: State, after: State, channel: bytes) -> None:
        found = after.channels.get(channel) or before.channels.get(channel)
        if found is not None:
            self._be_customer(found.payer, before.epoch)

    def _be_customer(self, account: bytes, epoch: int) -> None:
        self.customers.note(account, epoch)
        self.accounts.note(account, epoch)

    def _take_flow(self, flow: Flow) -> None:
        self.flows[flow.source, flow.party] += flow.amount
        if flow.account:
            self.earners.setdefault(flow.party, set()).add(flow.account)
        if flow.source == Source.APP:
            self.app_flows[flow.subject.decode(), flow.party] += flow.amount
        if flow.source == Source.INFERENCE and flow.subject not in self.models:
            self.in_batches.fees += flow.amount

    def _take_changes(self, before: State, after: State) -> None:
        paid = {flow.subject for flow in after.flows if flow.source == Source.INFERENCE}
        for table, key, row in after.changes:
            if table == "batches" and row is None and key in before.batches:
                leaves = before.batches[key].leaves
                if key not in paid:
                    self.forfeit += leaves
                    continue
                self.settled[BATCH] += leaves
                self.in_batches.receipts += leaves
                self.checked[BATCH] += sum(at.startswith(key) for at in before.checks)
            elif table == "pending" and row is not None and key in before.runs and key not in before.pending:
                # A contested run ends by itself, under its job's id: no transaction settles it.
                claim = before.runs[key].contest[0].receipt.claim
                self._count(JOB, claim.model, claim.fee)
                self._be_customer(before.jobs[key].payer, before.epoch)
            elif table == "wrong" and row is not None:
                self.proven_wrong += key not in before.wrong
            elif table == "tombstones" and row is not None:
                self.tombstones += key not in before.tombstones
