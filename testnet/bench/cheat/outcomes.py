"""What came of a network with cheats in it, from its blocks, its logs and its answers: who was caught, paid, is richer.

The same for a simulated network and for one of real processes: the ledger is recomputed from genesis.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from protocol.jobs import compute_claim_id
from protocol.keys import PrivateKey
from protocol.ledger.apply import apply_block, decode_transactions
from protocol.ledger.batches import BatchSettle, is_paid
from protocol.ledger.block import Block
from protocol.ledger.disputes import OpenDispute
from protocol.ledger.genesis import build_state
from protocol.ledger.job_records import Channel, Check
from protocol.ledger.openings import OpenLeaves
from protocol.ledger.settlement import collect_leaves
from protocol.ledger.state import State
from protocol.ledger.transactions import compute_transaction_id
from testnet.bench.cheat.strategies import Strategy
from testnet.genesis import PRICE_GRAINS, Foundation


@dataclass
class Batched:
    """What was drawn of one batch of a lying worker."""

    leaves: int
    drawn: int
    lies: int
    lies_drawn: int


@dataclass
class Outcomes:
    """Sums over the networks of one strategy in one mode. Money in grains."""

    jobs: int = 0
    answered: int = 0
    wrong_released: int = 0
    lies: int = 0
    lies_paid: int = 0
    gain: int = 0  # of the cheat, to the end of each network, against what it had
    convictions: int = 0
    honest_slashed: int = 0
    unsettled: int = 0  # networks in which something was still open in the end
    lost_max: int = 0  # most that an honest party has paid, or worked, one counterparty for nothing
    batches: list[Batched] = field(default_factory=list)
    again: int = 0  # workers asked beside the first
    unpaid: int = 0  # claims that earned nothing
    disputes: int = 0

    def add(self, other: "Outcomes") -> None:
        for each in fields(self):
            if each.name not in ("lost_max", "batches"):
                setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))
        self.lost_max = max(self.lost_max, other.lost_max)
        self.batches += other.batches

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> "Outcomes":
        return Outcomes(**{**values, "batches": [Batched(**each) for each in values["batches"]]})


@dataclass(frozen=True)
class Answer:
    """How one request of a client ended."""

    client: str  # its node
    is_answered: bool
    is_wrong: bool = False  # the outputs that were released are not the model's
    worker: bytes = b""  # node key of whose answer it was
    fee: int = 0  # grains
    attempts: int = 1  # workers that were asked


@dataclass(frozen=True)
class Observed:
    """A network that is over. `blocks` in order; `events` the lines of all logs."""

    foundation: Foundation
    blocks: Sequence[Block]
    events: Sequence[Mapping[str, Any]]
    answers: Sequence[Answer]
    is_settled: bool

    def get_events(self, name: str) -> list[Mapping[str, Any]]:
        return [event for event in self.events if event["name"] == name]


def compute_outcomes(observed: Observed, strategy: Strategy) -> tuple[Outcomes, dict[str, int]]:
    """What came of it, and what every node has gained, by name, in grains."""
    names = observed.foundation.nodes
    accounts = {name: PrivateKey.from_seed(seeds.account).public for name, seeds in names.items()}
    chain = _Chain(observed)
    lies = {bytes.fromhex(event["claim_id"]) for event in observed.get_events("lie.told")}
    gains = {
        name: _get_wealth(chain.last, account) - _get_wealth(chain.first, account) + _count_use(observed, name)
        for name, account in accounts.items()
    }
    honest = [account for name, account in accounts.items() if name not in strategy.cheats]
    outcomes = Outcomes(
        jobs=len(observed.answers),
        answered=sum(answer.is_answered for answer in observed.answers),
        wrong_released=sum(answer.is_wrong for answer in observed.answers if answer.client not in strategy.cheats),
        lies=len(lies),
        lies_paid=len(lies & chain.paid),
        gain=gains[strategy.cheat],
        convictions=len(chain.last.wrong),
        honest_slashed=sum(_get_bond(chain.last, one) < _get_bond(chain.first, one) for one in honest),
        unsettled=not observed.is_settled,
        lost_max=_find_loss(observed, strategy, chain.channels.values(), accounts),
        again=sum(answer.attempts - 1 for answer in observed.answers),
        unpaid=len(set(chain.claims.values()) - chain.paid),
        disputes=chain.disputes,
        batches=list(chain.list_batches(accounts[strategy.cheat], lies)) if strategy.lies else [],
    )
    return outcomes, gains


def is_over(ledger: State) -> bool:
    """Whether no money waits for anything."""
    return not (ledger.batches or ledger.pending or ledger.disputes)


def _count_use(observed: Observed, name: str) -> int:
    """What a client has got, at the price of it; nothing for others."""
    return PRICE_GRAINS * sum(answer.is_answered for answer in observed.answers if answer.client == name)


def _find_loss(
    observed: Observed, strategy: Strategy, channels: Iterable[Channel], accounts: Mapping[str, bytes]
) -> int:
    """The most an honest client has paid a cheat, or an honest worker has worked for one, for nothing."""
    names = {account: name for name, account in accounts.items()}
    workers = {PrivateKey.from_seed(seeds.node).public: name for name, seeds in observed.foundation.nodes.items()}
    delivered: dict[tuple[str, str], int] = {}
    for answer in observed.answers:
        if answer.is_answered:
            pair = answer.client, workers[answer.worker]
            delivered[pair] = delivered.get(pair, 0) + answer.fee
    paid: dict[tuple[str, str], int] = dict.fromkeys(delivered, 0)
    for channel in channels:
        pair = names[channel.payer], names[channel.payee]
        paid[pair] = paid.get(pair, 0) + channel.paid
    losses = [0]
    for (client, worker), amount in paid.items():
        worth = delivered.get((client, worker), 0)
        if worker in strategy.cheats and client not in strategy.cheats:
            losses.append(amount - worth)
        if client in strategy.cheats and worker not in strategy.cheats:
            losses.append(worth - amount)
    return max(losses)


def _get_bond(ledger: State, account: bytes) -> int:
    return ledger.nodes[account].bond if account in ledger.nodes else 0


def _get_wealth(ledger: State, account: bytes) -> int:
    """What an account has, wherever it lies."""
    unbonding = sum(item.amount for item in ledger.unbonding.values() if item.account == account)
    channels = sum(item.deposit - item.paid for item in ledger.channels.values() if item.payer == account)
    return ledger.get_balance(account) + _get_bond(ledger, account) + unbonding + channels


class _Chain:
    """What stands in the blocks of a network, applied once more."""

    def __init__(self, observed: Observed) -> None:
        self.paid: set[bytes] = set()  # claims
        self.channels: dict[bytes, Channel] = {}  # as they were last: one that is closed is on the ledger no more
        self.disputes = 0
        self._settled: dict[bytes, tuple[bytes, list[tuple[bytes, int]]]] = {}  # batch -> worker, its jobs
        self._opened: dict[bytes, dict[int, bytes]] = {}  # batch -> leaf -> claim, empty for a zero leaf
        made = observed.get_events("claim.made")
        self.claims = {_get_job(event): bytes.fromhex(event["claim_id"]) for event in made}
        self.first = state = build_state(observed.foundation.genesis)
        for block in observed.blocks:
            after = apply_block(state, block, check_signatures=False)
            self._note(block, state, after)
            state = after
        self.last = state

    def list_batches(self, account: bytes, lies: set[bytes]) -> Iterator[Batched]:
        """The cheat's batches whose leaves were drawn."""
        for batch_id, (worker, jobs) in self._settled.items():
            opened = self._opened.get(batch_id)
            if worker == account and opened is not None:
                told = sum(self.claims.get(job) in lies for job in jobs)
                yield Batched(len(jobs), len(opened), told, sum(claim in lies for claim in opened.values()))

    def _note(self, block: Block, before: State, after: State) -> None:
        self.channels.update(after.channels)
        transactions = decode_transactions(block)
        self.paid |= {leaf.claim_id for leaf in collect_leaves(transactions, block.header.height) if leaf.amount}
        for transaction in transactions:
            body = transaction.content
            if isinstance(body, BatchSettle):
                jobs = [(run.last.channel, seq) for run in body.runs for seq in range(run.seq_first, run.last.seq + 1)]
                self._settled[compute_transaction_id(transaction)] = transaction.account, jobs
            elif isinstance(body, OpenDispute):
                self.disputes += 1
            elif isinstance(body, OpenLeaves):
                opened = self._opened.setdefault(body.batch, {})
                opened |= {
                    item.index: compute_claim_id(item.work[0].claim) if item.work else b"" for item in body.openings
                }
        for batch_id in before.batches.keys() - after.batches.keys():
            worker, jobs = self._settled[batch_id]
            if _get_earned(after, worker) > _get_earned(before, worker):
                given_back = {
                    compute_claim_id(check.claim)
                    for key, check in before.checks.items()
                    if key.startswith(batch_id) and _is_given_back(before, check)
                }
                self.paid |= {self.claims[job] for job in jobs if job in self.claims} - given_back


def _is_given_back(state: State, check: Check) -> bool:
    """Whether a drawn leaf does not earn: nobody could check it, or its verifiers differ and nothing is provable."""
    return not is_paid(check, state.models.get(check.claim.model))


def _get_earned(state: State, worker: bytes) -> int:
    return state.work[worker].earned if worker in state.work else 0


def _get_job(event: Mapping[str, Any]) -> tuple[bytes, int]:
    return bytes.fromhex(event["channel"]), event["seq"]
