"""Who plays a role otherwise than honestly, beside honest nodes."""

from collections.abc import Callable
from dataclasses import dataclass

from protocol.jobs import Mode
from protocol.types import BP
from testnet.bench.economy.clients import Client
from testnet.bench.economy.network import Network
from testnet.bench.economy.stores import Keeping, Store
from testnet.bench.economy.validators import Validator
from testnet.bench.economy.verifiers import Checking, Verifier
from testnet.bench.economy.workers import Worker

SOME_BP = 500  # of a liar's jobs, if it does not lie in all
MANY_BP = 2_000  # of one that loses nothing else: enough to stand out from who is drawn how often


@dataclass(frozen=True)
class Strategy:
    """`cheats` are the nodes whose profit is looked at, together; `turn` makes nodes what they are to be.

    `twin` is the strategy in whose network an honest node stands in its place. `known` is the decision that says why
    the strategy may pay; empty where it must not.
    """

    name: str
    about: str
    cheats: tuple[str, ...]
    turn: Callable[[Network], None]
    twin: str = "honest"
    known: str = ""

    @property
    def role(self) -> str:
        return self.cheats[0].rpartition("-")[0]


def _lie(lie_bp: int, opens: bool) -> Callable[[Network], None]:
    def turn(network: Network) -> None:
        for worker in network.list_of(Worker)[:1]:
            worker.lie_bp, worker.opens = lie_bp, opens
            if not opens:
                worker.lies_in = frozenset({Mode.BATCH})

    return turn


def _check(checking: Checking) -> Callable[[Network], None]:
    def turn(network: Network) -> None:
        for verifier in network.list_of(Verifier)[:1]:
            verifier.checking = checking

    return turn


def _be_in_league(lie_bp: int) -> Callable[[Network], None]:
    """The first worker and the first verifier: it says what the worker claims, and runs what others claim."""

    def turn(network: Network) -> None:
        for worker in network.list_of(Worker)[:1]:
            worker.lie_bp = lie_bp
            for verifier in network.list_of(Verifier)[:1]:
                verifier.tell = worker.told.get

    return turn


def _keep(keeping: Keeping) -> Callable[[Network], None]:
    def turn(network: Network) -> None:
        for store in network.list_of(Store)[:1]:
            store.keeping = keeping

    return turn


def _complain(network: Network) -> None:
    """A client that asks in batches."""
    for client in network.list_of(Client)[1:2]:
        client.complains = True


def _judge_nothing(validators: int) -> Callable[[Network], None]:
    """So many of them, with a liar among the workers, so that there is something to judge."""

    def turn(network: Network) -> None:
        _lie(SOME_BP, opens=True)(network)
        for validator in network.list_of(Validator)[:validators]:
            validator.judges = False

    return turn


HONEST = Strategy("honest", "nobody cheats", ("inference-0",), lambda network: None)
STRATEGIES = (
    Strategy("lies", "a worker lies in all jobs, and opens what is drawn", ("inference-0",), _lie(BP, opens=True)),
    Strategy("lies_some", "a worker lies in one job of twenty", ("inference-0",), _lie(SOME_BP, opens=True)),
    Strategy(
        "lies_closed",
        "a worker lies in one job of five of batches, and keeps a lie closed that is drawn",
        ("inference-0",),
        _lie(MANY_BP, opens=False),
    ),
    Strategy(
        "league",
        "a worker lies, and a verifier says what it says",
        ("inference-0", "verifier-0"),
        _be_in_league(SOME_BP),
    ),
    Strategy("guesses", "a verifier attests without running the model", ("verifier-0",), _check(Checking.GUESSES)),
    Strategy("silent", "a verifier is drawn and says nothing", ("verifier-0",), _check(Checking.SILENT)),
    Strategy(
        "told",
        "the same, the verifier alone: it saves the runs of what its friend tells it",
        ("verifier-0",),
        _be_in_league(SOME_BP),
        twin="lies_some",
        known="0152",
    ),
    Strategy("keeps_nothing", "a storage node drops what it has accepted", ("storage-0",), _keep(Keeping.NOTHING)),
    Strategy("keeps_most", "a storage node keeps nine tenths of it", ("storage-0",), _keep(Keeping.MOST)),
    Strategy("complains", "a client says in public that it has not got what it has", ("client-1",), _complain),
    Strategy(
        "judges_nothing",
        "a validator leaves disputes to others",
        ("validator-0",),
        _judge_nothing(1),
        twin="lies_some",
        known="0152",
    ),
    Strategy(
        "lies_unjudged",
        "a worker lies in one job of twenty, and two of four validators judge nothing",
        ("inference-0",),
        _judge_nothing(2),
    ),
)
