"""What goes wrong among simulated validators: drawn per seed, written into replay tokens, and made less of to find the
part that matters.
"""

import json
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from protocol.errors import LocalError
from protocol.types import BP
from testnet.consensus.liars import KINDS
from testnet.faults import Crash, FaultPlan, LinkFault, Partition, Pause

VALIDATORS_MAX = 16
SKEW_MS_MAX = 60_000
SKEW_MS_FAIR = 200  # any two validators may differ by twice as much and still take each other's header times
REAL_KEYS_EVERY = 100  # one seed of so many signs with Ed25519, and its evidence goes on to the ledger
PROVABLE = ("equivocating", "nullifying")  # how to cheat and be convicted
Each = tuple[tuple[str, int], ...]  # a number for each of some validators


@dataclass(frozen=True)
class Weather:
    """Everything that goes wrong until `calm_ms`; only those who cheat never stop.

    In `faults` loss, duplication and jitter strike every message; its crashes strike between two effects. `crash_bp` is
    the chance of a crash right after something was kept. Clocks of `skews` are wrong by so many milliseconds, `slow`
    ones take so many longer over everything. Who is in `forgetful` loses its vote log with its first crash.
    """

    validators: int = 4
    calm_ms: int = 8_000
    faults: FaultPlan = field(default_factory=FaultPlan)
    crash_bp: int = 0
    liars: tuple[tuple[str, str], ...] = ()
    skews: Each = ()
    slow: Each = ()
    forgetful: tuple[str, ...] = ()
    has_real_keys: bool = False

    def __post_init__(self) -> None:
        names = set(name_validators(self.validators))
        used = {name for name, _ in (*self.liars, *self.skews, *self.slow)} | set(self.forgetful)
        unknown = sorted((used | set(self.faults.list_nodes())) - names)
        if unknown:
            raise LocalError(f"there is no validator {unknown[0]!r} among {self.validators}")
        wrong = sorted({kind for _, kind in self.liars} - set(KINDS))
        if wrong:
            raise LocalError(f"nobody cheats by {wrong[0]!r}")
        if not 0 <= self.crash_bp <= BP or any(abs(value) > SKEW_MS_MAX for _, value in (*self.skews, *self.slow)):
            raise LocalError(f"a chance is at most {BP} basis points, a skew {SKEW_MS_MAX} ms")

    def to_text(self) -> str:
        """Compact JSON that leaves out what is as usual.

        >>> Weather(liars=(("validator-1", "silent"),)).to_text()
        '{"liars":[["validator-1","silent"]]}'
        """
        usual = asdict(Weather())
        document = {key: value for key, value in asdict(self).items() if value != usual[key]}
        if "faults" in document:
            document["faults"] = json.loads(self.faults.to_text())
        return json.dumps(document, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_text(cls, text: str) -> "Weather":
        """Raises LocalError for anything but what `to_text` writes."""
        try:
            document = json.loads(text)
            if not isinstance(document, dict):
                raise ValueError("it is no object")
            values: dict[str, Any] = {
                each.name: document.pop(each.name) for each in fields(cls) if each.name in document
            }
            if document:
                raise ValueError(f"no weather has {min(document)!r}")
            for name in ("liars", "skews", "slow"):
                values[name] = tuple((str(who), what) for who, what in values.get(name, ()))
            values["forgetful"] = tuple(map(str, values.get("forgetful", ())))
            values["faults"] = FaultPlan.from_document(values.get("faults", {}))
            return cls(**values)
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise LocalError(f"not a weather: {error}") from error


def name_validators(count: int) -> tuple[str, ...]:
    if not 1 <= count <= VALIDATORS_MAX:
        raise LocalError(f"from 1 to {VALIDATORS_MAX} validators, not {count}")
    return tuple(f"validator-{index}" for index in range(count))


def draw_weather(seed: int) -> Weather:
    """The weather of a seed: not everything in every run. No more cheat, or lose their votes, than a third allows."""
    rng = random.Random(f"weather/{seed}")
    count = rng.choice((4, 4, 4, 4, 4, 7))
    names = name_validators(count)
    calm_ms = rng.randrange(2_500, 7_500)
    has_real_keys = seed % REAL_KEYS_EVERY == 0
    kinds = PROVABLE if has_real_keys else KINDS
    faulty = rng.sample(names, (count - 1) // 3)
    liars = tuple((name, rng.choice(kinds)) for name in faulty) if rng.random() < 0.55 or has_real_keys else ()
    crashes = _draw_crashes(rng, names, calm_ms)
    return Weather(
        validators=count,
        calm_ms=calm_ms,
        faults=FaultPlan(
            loss_bp=rng.choice((0, 0, 500, 2_000, 3_000)),
            duplicate_bp=rng.choice((0, 500, 2_000)),
            latency_ms=rng.choice((1, 5, 20)),
            jitter_ms=rng.choice((2, 20, 80)),
            partitions=_draw_partitions(rng, names, calm_ms) if rng.random() < 0.55 else (),
            links=_draw_links(rng, names, calm_ms) if rng.random() < 0.25 else (),
            pauses=_draw_pauses(rng, names, calm_ms) if rng.random() < 0.15 else (),
            crashes=crashes,
        ),
        crash_bp=rng.choice((0, 0, 0, 200, 500, 1_500)),
        liars=liars,
        skews=_draw_skews(rng, names) if rng.random() < 0.3 else (),
        slow=((rng.choice(names), rng.randrange(20, 400)),) if rng.random() < 0.15 else (),
        forgetful=tuple(faulty[:1]) if not liars and rng.random() < 0.3 else (),
        has_real_keys=has_real_keys,
    )


def list_milder(weather: Weather) -> Iterator[Weather]:
    """Weathers with one thing less, the largest first."""
    faults = weather.faults
    for name in ("partitions", "links", "pauses", "crashes"):
        kept = getattr(faults, name)
        if kept:
            yield replace(weather, faults=replace(faults, **_set(name, ())))
    for name in ("liars", "skews", "slow", "forgetful"):
        if getattr(weather, name):
            yield replace(weather, **_set(name, ()))
    for name in ("loss_bp", "duplicate_bp", "jitter_ms"):
        if getattr(faults, name):
            yield replace(weather, faults=replace(faults, **_set(name, 0)))
    if weather.crash_bp:
        yield replace(weather, crash_bp=0)
    if weather.has_real_keys:
        yield replace(weather, has_real_keys=False)
    for name in ("partitions", "links", "pauses", "crashes"):
        kept = getattr(faults, name)
        for index in range(len(kept) if len(kept) > 1 else 0):
            yield replace(weather, faults=replace(faults, **_set(name, kept[:index] + kept[index + 1 :])))


def _set(name: str, value: Any) -> dict[str, Any]:
    return {name: value}


def _draw_partitions(rng: random.Random, names: tuple[str, ...], calm_ms: int) -> tuple[Partition, ...]:
    cuts = []
    at_ms = rng.randrange(100, 1_500)
    while at_ms < calm_ms:
        end_ms = min(at_ms + rng.randrange(500, 4_000), calm_ms)
        side = tuple(sorted(rng.sample(names, rng.randrange(1, len(names)))))
        cuts.append(Partition(at_ms, max(end_ms, at_ms + 1), (side,), one_way=rng.random() < 0.3))
        at_ms = end_ms + rng.randrange(300, 3_000)
    return tuple(cuts)


def _draw_links(rng: random.Random, names: tuple[str, ...], calm_ms: int) -> tuple[LinkFault, ...]:
    """Single ways that are clogged, lost or late."""
    faults = []
    for _ in range(rng.randrange(1, 4)):
        at_ms = rng.randrange(calm_ms)
        end_ms = min(calm_ms, at_ms + rng.randrange(300, 4_000)) + 1
        source, target = rng.sample(names, 2)
        kind = rng.choice(("stall", "blackhole", ""))
        delay_ms = 0 if kind else rng.randrange(100, 800)
        faults.append(LinkFault(at_ms, end_ms, (source,), (target,), rng.random() < 0.5, delay_ms, silence=kind))
    return tuple(faults)


def _draw_pauses(rng: random.Random, names: tuple[str, ...], calm_ms: int) -> tuple[Pause, ...]:
    at_ms = rng.randrange(calm_ms)
    return (Pause(rng.choice(names), at_ms, min(calm_ms, at_ms + rng.randrange(200, 4_000)) + 1),)


def _draw_crashes(rng: random.Random, names: tuple[str, ...], calm_ms: int) -> tuple[Crash, ...]:
    """Nobody, a few, or all at once: the power of the whole cluster."""
    kind = rng.random()
    if kind < 0.5:
        return ()
    if kind < 0.65:
        at_ms = rng.randrange(calm_ms)
        return tuple(Crash(name, at_ms, at_ms + rng.randrange(50, 2_000)) for name in names)
    crashes = []
    for name in rng.sample(names, rng.randrange(1, 4)):
        at_ms = rng.randrange(calm_ms)
        crashes.append(Crash(name, at_ms, at_ms + rng.randrange(50, 3_000)))
    return tuple(crashes)


def _draw_skews(rng: random.Random, names: tuple[str, ...]) -> Each:
    """Clocks that differ a little, or one that is far off: what it proposes others do not take."""
    if rng.random() < 0.5:
        return ((rng.choice(names), rng.choice((-20_000, -5_000, 5_000))),)
    return tuple((name, rng.randrange(-SKEW_MS_FAIR, SKEW_MS_FAIR + 1)) for name in names)
