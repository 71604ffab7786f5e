"""Who cheats how: one line for each strategy that `rolemesh bench cheat` tries."""

from collections.abc import Mapping
from dataclasses import dataclass

from protocol.jobs import Mode
from testnet.genesis import MODELS

BOTH = (Mode.INDIVIDUAL, Mode.BATCH)


@dataclass(frozen=True)
class Strategy:
    """`cheats` are the classes of nodes, by name; the first is the one whose wealth is looked at.

    `models` are asked for in turn. A worker that rounds weights runs them with `rounds` (`roles.engine.rounding`).
    """

    name: str
    about: str
    cheats: Mapping[str, str]
    modes: tuple[Mode, ...] = BOTH
    lies: bool = False  # its jobs are wrong, so that detection can be held against arithmetic
    models: tuple[str, ...] = ("digits",)
    rounds: str = ""
    is_provable: bool = True  # a lie costs stake in both modes: of float models only where a leaf of a batch is drawn

    @property
    def cheat(self) -> str:
        return next(iter(self.cheats))

    @property
    def ledger(self) -> tuple[str, ...]:
        """The models on the ledger: what every network has, unless others are asked for."""
        return MODELS if set(self.models) <= set(MODELS) else tuple(sorted({*MODELS, *self.models}))

    @property
    def twin(self) -> str:
        """The strategy of honest nodes that are asked the same."""
        return "honest" if self.models == STRATEGIES[0].models else "honest_fp32"


def _worker(name: str, about: str, kind: str, lies: bool = False) -> Strategy:
    return Strategy(name, about, {"inference-0": f"testnet.cheats:{kind}"}, lies=lies)


def _verifier(name: str, about: str, kind: str) -> Strategy:
    return Strategy(name, about, {"verifier-0": f"testnet.cheats:{kind}"})


def _client(name: str, about: str, kind: str) -> Strategy:
    return Strategy(name, about, {"client-0": f"testnet.cheats:{kind}"})


def _rounder(name: str, about: str, models: tuple[str, ...], is_provable: bool) -> Strategy:
    cheats = {"inference-0": "testnet.cheats:Degrading"}
    return Strategy(name, about, cheats, lies=True, models=models, rounds=name, is_provable=is_provable)


FLOATS = ("digits-fp32", "digits-cnn")
STRATEGIES = (
    Strategy("honest", "nobody cheats", {"inference-0": "inference"}),
    Strategy(
        "honest_fp32", "nobody cheats, and float models are asked for", {"inference-0": "inference"}, models=FLOATS
    ),
    _worker("alter", "a worker runs the model and says something else", "Altering", lies=True),
    _worker("copy", "a worker answers everything with its first answer", "Copying", lies=True),
    _worker("truncate", "a worker leaves the last number out", "Truncating", lies=True),
    _worker("substitute", "a worker runs another model", "Substituting", lies=True),
    _rounder("int4", "a worker runs the exact model with weights of four bits", ("digits",), is_provable=True),
    _rounder("fp16", "a worker runs float models with weights of half precision", FLOATS, is_provable=False),
    _rounder("int8", "a worker runs float models with weights of eight bits", FLOATS, is_provable=False),
    _worker("late", "a worker answers when the request is over, and claims its pay", "Late"),
    _worker("silent", "a worker takes requests and does nothing", "Silent"),
    _worker("withhold", "a worker claims its pay and sends nobody the result", "Withholding"),
    _verifier("blind", "a verifier attests without running the model", "Blind"),
    _verifier("copy_attestation", "a verifier says what another one has said", "CopyingVerifier"),
    _verifier("abstain", "a verifier is drawn and says nothing", "Abstaining"),
    Strategy(
        "collude",
        "a worker lies, and one verifier attests its lies",
        {"inference-0": "testnet.cheats:Altering", "verifier-0": "testnet.cheats:Colluding"},
        lies=True,
    ),
    Strategy(
        "frame",
        "two verifiers find the same wrong answer, to have honest workers slashed",
        {"verifier-0": "testnet.cheats:Framing", "verifier-1": "testnet.cheats:Framing"},
    ),
    Strategy(
        "frame_fp32",
        "two verifiers find the same wrong answer of float models",
        {"verifier-0": "testnet.cheats:Framing", "verifier-1": "testnet.cheats:Framing"},
        models=FLOATS,
    ),
    _client("underpay", "a client pays a grain less than the price", "Underpaying"),
    _client("replay", "a client pays every request with one voucher number", "Replaying"),
    _client("deny", "a client closes its channels as soon as it has an answer", "Denying"),
)


def find_strategies(names: frozenset[str]) -> tuple[Strategy, ...]:
    """Those of these names, all for none."""
    return tuple(strategy for strategy in STRATEGIES if not names or strategy.name in names)
