"""One strategy in one simulated network, and what came of it: who was caught, who was paid, who is richer."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any

from protocol.jobs import Mode, compute_claim_id
from protocol.keys import PrivateKey
from protocol.ledger.apply import apply_block, decode_transactions
from protocol.ledger.batches import BatchSettle
from protocol.ledger.block import Block
from protocol.ledger.genesis import build_state
from protocol.ledger.openings import OpenLeaves
from protocol.ledger.settlement import collect_leaves
from protocol.ledger.state import State
from protocol.ledger.transactions import compute_transaction_id
from testnet.bench.cheat.strategies import Strategy
from testnet.genesis import PRICE_GRAINS, build_genesis
from testnet.sim import Asked, Network, simulate

ROLES = {"validator": 1, "inference": 3, "verifier": 4, "storage": 1, "client": 2}
LIE_BP = (500, 1_000, 3_000, 10_000)  # of a lying worker's jobs: the seed decides
IN_FLIGHT = 24
TIMEOUT_MS = 4_000
SETTLED_MS = 120_000  # virtual time for everything to be settled or refunded once the last answer is in
BATCH_MS = 3_000
ROWS = 600
JOBS = "inference/jobs"  # where workers keep what they have claimed


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

    def add(self, other: "Outcomes") -> None:
        for each in fields(self):
            if each.name not in ("lost_max", "batches"):
                setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))
        self.lost_max = max(self.lost_max, other.lost_max)
        self.batches += other.batches


def run(strategy: Strategy, mode: Mode, seed: int, jobs: int) -> Outcomes:
    """Ask so much of a network with these cheats in it, wait until everything is settled, and add up."""
    network = simulate(seed, ROLES, options=_make_options(strategy, seed))
    before, bonds = _Wealth(network), network.bonds
    asked = _ask(network, mode, jobs)
    is_settled = network.run_until(lambda: _is_settled(network), SETTLED_MS)
    network.run_for(2 * SETTLED_MS // 10)
    found = _Chain(network)
    lies = {bytes.fromhex(event["claim_id"]) for event in network.get_events("lie.told")}
    return Outcomes(
        jobs=len(asked),
        answered=sum(one.is_answered for one in asked),
        wrong_released=sum(_is_wrong(one) for one in asked if one.client not in strategy.cheats),
        lies=len(lies),
        lies_paid=len(lies & found.paid),
        gain=_Wealth(network).of(strategy.cheat) - before.of(strategy.cheat) + _count_use(strategy, asked),
        convictions=len(network.ledger.wrong),
        unsettled=not is_settled,
        honest_slashed=sum(bond < bonds[name] for name, bond in network.bonds.items() if name not in strategy.cheats),
        lost_max=_find_loss(network, strategy, asked),
        batches=list(found.list_batches(network, strategy, lies)) if strategy.lies else [],
    )


def _make_options(strategy: Strategy, seed: int) -> dict[str, dict[str, Any]]:
    foundation = build_genesis(seed, ROLES)
    liars = [PrivateKey.from_seed(foundation.nodes[name].node).public.hex() for name in strategy.cheats]
    lie_bp = LIE_BP[seed % len(LIE_BP)] if strategy.lies else 10_000
    options: dict[str, dict[str, Any]] = {"inference": {"batch_ms": BATCH_MS}}
    for name, kind in strategy.cheats.items():
        options[name] = {"class": kind, "lie_bp": lie_bp, "friends": liars}
    return options


def _ask(network: Network, mode: Mode, jobs: int) -> list[Asked]:
    asked: list[Asked] = []
    waiting: list[Asked] = []
    for number in range(jobs):
        client = f"client-{number % ROLES['client']}"
        asked.append(network.request("digits", number % ROWS, client, timeout_ms=TIMEOUT_MS, mode=mode))
        waiting.append(asked[-1])
        if len(waiting) >= IN_FLIGHT:
            network.run_until(partial(_are_done, waiting, IN_FLIGHT // 2))
            waiting = [one for one in waiting if not one.is_done]
    network.run_until(partial(_are_done, waiting, len(waiting)))
    return asked


def _are_done(asked: list[Asked], wanted: int) -> bool:
    return sum(one.is_done for one in asked) >= wanted


def _is_settled(network: Network) -> bool:
    """No money waits for anything, and no worker has a job that is not settled."""
    ledger = network.ledger
    has_jobs = any(node.disk.kv.get(JOBS) for node in network.nodes.values())
    return not (has_jobs or ledger.batches or ledger.pending or ledger.disputes)


def _is_wrong(asked: Asked) -> bool:
    """Whether a client's library has let go of an output that is not the model's."""
    return asked.outcome is not None and asked.is_answered and asked.outcome.outputs != asked.compute_expected()


def _count_use(strategy: Strategy, asked: list[Asked]) -> int:
    """What a cheating client has got, at the price of it; nothing for others."""
    return PRICE_GRAINS * sum(one.is_answered for one in asked if one.client == strategy.cheat)


def _find_loss(network: Network, strategy: Strategy, asked: list[Asked]) -> int:
    """The most an honest client has paid a cheat, or an honest worker has worked for one, for nothing."""
    nodes = network.nodes
    names = {node.keys.account.public: name for name, node in nodes.items()}
    workers = {node.keys.node.public: name for name, node in nodes.items()}
    delivered: dict[tuple[str, str], int] = {}
    for one in asked:
        if one.outcome is not None and one.outcome.is_answered:
            pair = one.client, workers[one.outcome.worker]
            delivered[pair] = delivered.get(pair, 0) + one.outcome.fee
    paid: dict[tuple[str, str], int] = dict.fromkeys(delivered, 0)
    for channel in network.ledger.channels.values():
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


class _Wealth:
    """What everyone has, wherever it lies."""

    def __init__(self, network: Network) -> None:
        self._ledger = network.ledger
        self._accounts = {name: node.keys.account.public for name, node in network.nodes.items()}

    def of(self, name: str) -> int:
        account, ledger = self._accounts[name], self._ledger
        bond = ledger.nodes[account].bond if account in ledger.nodes else 0
        unbonding = sum(item.amount for item in ledger.unbonding.values() if item.account == account)
        channels = sum(item.deposit - item.paid for item in ledger.channels.values() if item.payer == account)
        return ledger.get_balance(account) + bond + unbonding + channels


class _Chain:
    """What stands in the blocks of a network, applied once more."""

    def __init__(self, network: Network) -> None:
        kept = network.nodes["validator-0"].disk.blocks
        self.paid: set[bytes] = set()  # claims
        self._settled: dict[bytes, tuple[bytes, list[tuple[bytes, int]]]] = {}  # batch -> worker, its jobs
        self._opened: dict[bytes, dict[int, bytes]] = {}  # batch -> leaf -> claim, empty for a zero leaf
        made = network.get_events("claim.made")
        self._claims = {_get_job(event): bytes.fromhex(event["claim_id"]) for event in made}
        state = build_state(network.genesis)
        for height in sorted(kept):
            block = kept[height].block
            after = apply_block(state, block, check_signatures=False)
            self._note(block, state, after)
            state = after

    def list_batches(self, network: Network, strategy: Strategy, lies: set[bytes]) -> Iterator[Batched]:
        """The cheat's batches whose leaves were drawn."""
        account = network.nodes[strategy.cheat].keys.account.public
        for batch_id, (worker, jobs) in self._settled.items():
            opened = self._opened.get(batch_id)
            if worker == account and opened is not None:
                told = sum(self._claims.get(job) in lies for job in jobs)
                yield Batched(len(jobs), len(opened), told, sum(claim in lies for claim in opened.values()))

    def _note(self, block: Block, before: State, after: State) -> None:
        transactions = decode_transactions(block)
        self.paid |= {leaf.claim_id for leaf in collect_leaves(transactions, block.header.height) if leaf.amount}
        for transaction in transactions:
            body = transaction.content
            if isinstance(body, BatchSettle):
                jobs = [(run.last.channel, seq) for run in body.runs for seq in range(run.seq_first, run.last.seq + 1)]
                self._settled[compute_transaction_id(transaction)] = transaction.account, jobs
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
                    if key.startswith(batch_id) and check.is_void
                }
                self.paid |= {self._claims[job] for job in jobs if job in self._claims} - given_back


def _get_earned(state: State, worker: bytes) -> int:
    return state.work[worker].earned if worker in state.work else 0


def _get_job(event: Mapping[str, Any]) -> tuple[bytes, int]:
    return bytes.fromhex(event["channel"]), event["seq"]
