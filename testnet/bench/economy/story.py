"""Demand that surges and collapses, and participants that stay or go by what they gain: what is served and paid."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from protocol.ledger.epochs import compute_epoch
from testnet.bench.economy.choices import Choices, spread_upkeep
from testnet.bench.economy.clients import Asked, Client
from testnet.bench.economy.network import STEP_MS, Network, Setting
from testnet.bench.economy.participant import Participant
from testnet.bench.economy.payouts import End
from testnet.bench.economy.recovery import Sample
from testnet.bench.economy.stores import Keeping, Store
from testnet.bench.economy.strategies import SOME_BP
from testnet.bench.economy.verifiers import Checking, Verifier
from testnet.bench.economy.workers import Worker

RATIONAL = ("inference", "verifier", "storage", "validator")


@dataclass(frozen=True)
class Phase:
    """So many requests an epoch, for so many epochs."""

    name: str
    requests: int
    epochs: int


CALM = 60
STORY = (
    Phase("calm", CALM, 4),
    Phase("surge", 8 * CALM, 4),
    Phase("collapse", CALM // 10, 4),
    Phase("calm", CALM, 4),
)
SERVED_MIN = 0.95  # while demand is calm
PAID_MIN = 0.98  # of what is answered: the rest are leaves nobody could check, and batches with a lie in them
ROWS = 32
CAST = {"validator": 5, "inference": 8, "verifier": 8, "storage": 8, "client": 8}
OUTSIDE = {"validator": 3, "inference": 8, "verifier": 8, "storage": 4}
EPOCH_COLUMNS = "seed|epoch|demand|asked|served|of it paid|wrong|copies kept|workers|verifiers|stores|validators"


@dataclass(frozen=True)
class Shock:
    """Half of a role goes at once: it takes its stake back, or just says nothing any more."""

    role: str
    vanishes: bool = False
    known: str = ""  # the decision that says why service may not come back

    @property
    def name(self) -> str:
        return f"{self.role}_{'vanishes' if self.vanishes else 'leaves'}"


@dataclass(frozen=True)
class Epoch:
    """What became of the requests of one epoch, and who was there to serve them."""

    seed: int
    number: int
    phase: str
    asked: int
    answered: int
    paid: int
    refunded: int
    wrong: int  # answers that were
    workers: int
    verifiers: int
    stores: int
    validators: int
    kept: float  # of the copies that are paid for, on average

    def format_cells(self) -> list[str]:
        served = self.answered / self.asked if self.asked else 1.0
        settled = self.paid / self.answered if self.answered else 1.0
        counts = (self.workers, self.verifiers, self.stores, self.validators)
        shares = (f"{served:.1%}", f"{settled:.1%}", str(self.wrong), f"{self.kept:.1%}")
        return [str(self.seed), str(self.number), self.phase, str(self.asked), *shares, *map(str, counts)]

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": f"epoch_{self.number}",
            "value": self.answered,
            "unit": "requests",
            "peer": "asked",
            "peer_value": self.asked,
            "ratio": round(self.answered / self.asked, 4) if self.asked else 1.0,
            "seed": self.seed,
            "phase": self.phase,
            "paid": self.paid,
            "refunded": self.refunded,
            "wrong": self.wrong,
            "workers": self.workers,
            "verifiers": self.verifiers,
            "stores": self.stores,
            "validators": self.validators,
            "kept": self.kept,
        }


class Story:
    """One network through phases of demand, with a shock if there is one. Everybody but a few cheats is rational."""

    def __init__(self, setting: Setting, seed: int) -> None:
        self.seed = seed
        self.network = Network(setting, seed)
        self.choices = Choices(RATIONAL, frozenset(turn_some(self.network)))
        self.epochs: list[Epoch] = []
        self.kept: list[Sample] = []
        self.shock_ms = 0
        self._there: dict[int, Counter[str]] = {}
        self._phases: dict[int, str] = {}

    def play(self, phases: Sequence[Phase], shock: Shock | None = None, shock_epoch: int = 0) -> bool:
        """Whether everything was settled in the end."""
        network = self.network
        spread_upkeep(network, RATIONAL)
        network.market = self.choices
        network.warm_up()
        steps, step, ends = network.state.params.epoch_ms // STEP_MS, 0, 0
        for phase in phases:
            ends += phase.epochs
            while network.state.epoch < ends and not network.is_stuck:
                epoch = network.state.epoch
                if shock is not None and epoch >= shock_epoch and not self.shock_ms:
                    strike(network, shock)
                    self.shock_ms = network.state.time_ms
                self._phases.setdefault(epoch, phase.name)
                self._there.setdefault(epoch, count_serving(network))
                due = phase.requests * (step + 1) // steps - phase.requests * step // steps
                network.step(due)
                self.kept.append(count_kept(network))
                step = (step + 1) % steps
        network.market = None
        is_settled = network.settle()
        self.epochs = [self._tell(number) for number in sorted(self._phases)]
        return is_settled

    def list_asked(self) -> list[Asked]:
        return [one for client in self.network.list_of(Client) for one in client.asked]

    def describe(self, missed: Sequence[str]) -> str:
        """Who came and went, and the verdict."""
        verdict = "; ".join(missed) or "holds"
        return f"{self.choices.joined} joined and {self.choices.left} left by their own choice: {verdict}"

    def to_dict(self, missed: Sequence[str]) -> dict[str, Any]:
        return {
            "name": "demand",
            "value": round(compute_served(self.epochs), 4),
            "unit": "served",
            "peer": "bar while calm",
            "peer_value": SERVED_MIN,
            "ratio": 0.0,
            "seed": self.seed,
            "joined": self.choices.joined,
            "left": self.choices.left,
            "missed": list(missed),
        }

    def list_served(self) -> list[Sample]:
        return [Sample(one.time_ms, int(one.job is not None), 1) for one in self.list_asked()]

    def _find_epoch(self, time_ms: int) -> int:
        state = self.network.state
        return compute_epoch(time_ms, state.genesis_ms, state.params.epoch_ms)

    def _tell(self, number: int) -> Epoch:
        of_epoch = [one for one in self.list_asked() if self._find_epoch(one.time_ms) == number]
        jobs = [one.job for one in of_epoch if one.job is not None]
        ends = Counter(self.network.ends.get(job.claim_id) for job in jobs)
        there = self._there[number]
        kept = [sample for sample in self.kept if self._find_epoch(sample.time_ms) == number]
        return Epoch(
            seed=self.seed,
            number=number,
            phase=self._phases[number],
            asked=len(of_epoch),
            answered=len(jobs),
            paid=ends[End.PAID],
            refunded=ends[End.REFUNDED] + ends[End.FORFEIT],
            wrong=sum(not job.is_true for job in jobs),
            workers=there["inference"],
            verifiers=there["verifier"],
            stores=there["storage"],
            validators=there["validator"],
            kept=sum(sample.got for sample in kept) / max(1, sum(sample.wanted for sample in kept)),
        )


def judge_story(story: Story, is_settled: bool) -> Iterator[str]:
    """What demand that comes and goes must not do."""
    epochs = story.epochs
    if not is_settled:
        yield "something was still open at the end"
    for phase in (epochs[0].phase, epochs[-1].phase):
        served = compute_served([each for each in epochs if each.phase == phase])
        if served < SERVED_MIN:
            yield f"{served:.1%} were served while demand was {phase}"
    paid = sum(each.paid for each in epochs) / max(1, sum(each.answered for each in epochs))
    if paid < PAID_MIN:
        yield f"{1 - paid:.1%} of what was answered was not paid"


def compute_served(epochs: Sequence[Epoch]) -> float:
    """The share of requests that was answered."""
    return sum(each.answered for each in epochs) / max(1, sum(each.asked for each in epochs))


def turn_some(network: Network) -> list[str]:
    """One worker lies now and then, one verifier says nothing and one anything. Their names."""
    liar, silent, guessing = (network.people[name] for name in ("inference-0", "verifier-0", "verifier-1"))
    assert isinstance(liar, Worker)
    assert isinstance(silent, Verifier)
    assert isinstance(guessing, Verifier)
    liar.lie_bp = SOME_BP
    silent.checking, guessing.checking = Checking.SILENT, Checking.GUESSES
    return [liar.name, silent.name, guessing.name]


def strike(network: Network, shock: Shock) -> None:
    """Half of those that serve in a role go, by dice."""
    serving = [each for each in network.people.values() if each.role == shock.role and is_there(network, each)]
    for each in network.dice.sample(serving, len(serving) // 2):
        if shock.vanishes:
            each.is_gone = True
        else:
            each.leave()


def is_there(network: Network, each: Participant) -> bool:
    return not each.is_gone and each.is_serving(network.state)


def count_serving(network: Network) -> Counter[str]:
    """How many serve, by role."""
    return Counter(each.role for each in network.people.values() if is_there(network, each))


def count_kept(network: Network) -> Sample:
    """The copies of leased blobs that are there in whole."""
    good = {each.account for each in network.list_of(Store) if not each.is_gone and each.keeping is Keeping.ALL}
    leases = network.state.leases.values()
    got = sum(bool(part.height) and part.account in good for lease in leases for part in lease.replicas)
    return Sample(network.now_ms, got, sum(lease.factor for lease in leases))
