"""A network on the real ledger, second by second: demand comes, participants act, a block is built."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, Protocol, TypeVar

from protocol.jobs import Mode
from protocol.keys import PrivateKey
from protocol.ledger.genesis import build_state
from protocol.ledger.params import Params
from protocol.ledger.state import State
from testnet.bench.economy.chain import Chain
from testnet.bench.economy.clients import REPLICAS, Client
from testnet.bench.economy.costs import Costs
from testnet.bench.economy.participant import Participant
from testnet.bench.economy.payouts import Batched, End, find_ends, find_settled, list_ended
from testnet.bench.economy.stores import Store
from testnet.bench.economy.validators import Validator
from testnet.bench.economy.verifiers import Verifier
from testnet.bench.economy.workers import Worker
from testnet.genesis import PRICE_GRAINS, Foundation, build_genesis, load_models

GENESIS_MS = 1_700_000_000_000
STEP_MS = 1_000  # between two blocks
WARM_UP_STEPS = 3
SETTLE_STEPS_MAX = 600  # for everything to be paid or given back once nobody asks any more
MODEL = "digits"
RUNNING = ("inference", "verifier")  # roles whose nodes run models
P = TypeVar("P", bound=Participant)


@dataclass(frozen=True)
class Setting:
    """What a network is like. `rows` are those of a request, `rows_max` what a worker runs in a second.

    `outside` are so many more of a role, with money and keys, that have not joined yet.
    """

    roles: Mapping[str, int]
    outside: Mapping[str, int] = field(default_factory=dict)
    params: Params = field(default_factory=Params)
    costs: Costs = field(default_factory=Costs)
    price: int = PRICE_GRAINS
    rows: int = 8
    rows_max: int = 100
    individual: int = 1  # of so many clients one asks in mode `individual`; 0 for none


class Market(Protocol):
    """Has participants join and leave."""

    def choose(self, network: "Network") -> None: ...


class Network:
    """Everybody, by account. The same seed and setting give the same network."""

    def __init__(self, setting: Setting, seed: int) -> None:
        self.setting = setting
        self.dice = Random(f"economy-{seed}")
        (self.model,) = load_models((MODEL,))
        roles = {role: count + setting.outside.get(role, 0) for role, count in setting.roles.items()}
        foundation = build_genesis(seed, roles, (self.model,), now_ms=GENESIS_MS, params=setting.params)
        votes = {
            PrivateKey.from_seed(seeds.account).public: PrivateKey.from_seed(seeds.vote)
            for seeds in foundation.nodes.values()
            if seeds.vote is not None
        }
        self.people: dict[str, Participant] = {name: self._make(name, foundation) for name in foundation.nodes}
        inside = {each.account for each in self.people.values() if each.number < setting.roles[each.role]}
        nodes = (node for node in foundation.genesis.nodes if node.account in inside)
        priced = tuple(replace(node, price=setting.price if "inference" in node.roles else 0) for node in nodes)
        self.chain = Chain(build_state(replace(foundation.genesis, nodes=priced)), votes)
        self.began = self.wealth
        self.ends: dict[bytes, End] = {}  # of jobs, by claim id
        self.batches: list[Batched] = []  # that have ended
        self.now_ms = self.state.time_ms
        self.is_stuck = False  # there is no quorum
        self.market: Market | None = None  # who joins and who leaves, at every epoch's end

    @property
    def state(self) -> State:
        return self.chain.state

    @property
    def wealth(self) -> Counter[bytes]:
        return compute_wealth(self.state)

    def step(self, requests: int = 0) -> None:
        """Another second, in which clients ask so much in turn."""
        workers = {each.node: each for each in self.list_of(Worker)}
        verifiers = {each.node: each for each in self.list_of(Verifier)}
        clients = self.list_of(Client)
        for worker in workers.values():
            worker.begin()
        for _ in range(requests):
            client = self.dice.choice(clients)
            client.ask(self.chain, workers, verifiers)
        for each in self.people.values():
            each.act(self.chain)
        epoch = self.state.epoch
        gone = frozenset(each.account for each in self.list_of(Validator) if each.is_gone)
        self.now_ms += STEP_MS
        self.is_stuck = not self.chain.advance(self.now_ms, gone)
        if not self.is_stuck:
            self._note_ends(workers.values())
        if self.state.epoch != epoch:
            for each in self.people.values():
                each.pay_upkeep(self.state)
            if self.market is not None:
                self.market.choose(self)

    def warm_up(self) -> None:
        """Let clients open their channels."""
        for _ in range(WARM_UP_STEPS):
            self.step()

    def settle(self) -> bool:
        """Let everything come to its end; False if something has not."""
        for _ in range(SETTLE_STEPS_MAX):
            if self.is_settled:
                return True
            self.step()
        return False

    @property
    def is_settled(self) -> bool:
        state = self.state
        waiting = (state.batches, state.pending, state.disputes, state.withheld)
        return not any(waiting) and not any(worker.has_open(state) for worker in self.list_of(Worker))

    def list_of(self, kind: type[P]) -> list[P]:
        return [each for each in self.people.values() if isinstance(each, kind)]

    def list_liars(self) -> list[Worker]:
        return [worker for worker in self.list_of(Worker) if worker.lie_bp]

    def join(self, each: Participant) -> None:
        """Have it register with the bond of its role."""
        price = self.setting.price if each.role == "inference" else 0
        each.join(self.chain, [self.model.digest] if each.role in RUNNING else [], price)

    def compute_profit(self, each: Participant) -> int:
        """What an account has gained since genesis, less what its work has cost. Grains."""
        return self.wealth[each.account] - self.began[each.account] - each.cost

    def _note_ends(self, workers: Iterable[Worker]) -> None:
        before, after = self.chain.before, self.chain.state
        self.batches += list_ended(before, after)
        for worker in workers:
            self.ends |= find_ends(before, after, worker.account, worker.batches)
            self.ends |= find_settled(before, after, worker.list_waiting(Mode.INDIVIDUAL))

    def _make(self, name: str, foundation: Foundation) -> Participant:
        role = name.rpartition("-")[0]
        seeds, setting = foundation.nodes[name], self.setting
        account, node = (PrivateKey.from_seed(seed).public for seed in (seeds.account, seeds.node))
        who: dict[str, Any] = {"name": name, "account": account, "node": node, "role": role, "costs": setting.costs}
        who["upkeep"] = setting.costs.epoch if role in RUNNING else setting.costs.epoch_light
        match role:
            case "inference":
                return Worker(**who, rows_max=setting.rows_max, dice=Random(f"{name}-{self.dice.random()}"))
            case "verifier":
                return Verifier(**who)
            case "validator":
                return Validator(**who)
            case "storage":
                return Store(**who)
            case "client":
                client = Client(**who, model=self.model, rows_asked=setting.rows, price=setting.price)
                client.leases = setting.roles.get("storage", 0) >= REPLICAS
                if setting.individual and not client.number % setting.individual:
                    client.mode = Mode.INDIVIDUAL
                return client
        raise ValueError(f"nobody plays the role {role}")


def compute_wealth(state: State) -> Counter[bytes]:
    """What is each account's, wherever it is: at hand, bonded, on its way back, in channels, leases and bonds."""
    wealth: Counter[bytes] = Counter({key: account.balance for key, account in state.accounts.items()})
    for node in state.nodes.values():
        wealth[node.account] += node.bond
    for entry in state.unbonding.values():
        wealth[entry.account] += entry.amount
    for channel in state.channels.values():
        wealth[channel.payer] += channel.deposit - channel.paid
    for lease in state.leases.values():
        wealth[lease.payer] += lease.balance
    for challenge in state.withheld.values():
        wealth[challenge.payer] += challenge.fee
    for dispute in state.disputes.values():
        wealth[dispute.challenger] += dispute.bond
    return wealth
