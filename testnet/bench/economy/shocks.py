"""Half of a role goes at once, while demand is busy."""

from dataclasses import dataclass
from typing import Any

from testnet.bench.economy.network import Setting
from testnet.bench.economy.recovery import Recovery, compute_recovery
from testnet.bench.economy.story import CALM, PAID_MIN, Phase, Shock, Story

BUSY = Phase("busy", 4 * CALM, 9)  # about half of what there is to be had
SHOCK_EPOCH = 3
RECOVERY_MS_MAX = 60_000
SHOCKS = (
    Shock("inference"),
    Shock("verifier"),
    Shock("storage"),
    Shock("validator"),
    Shock("inference", vanishes=True, known="0152"),
    Shock("verifier", vanishes=True, known="0152"),
    Shock("storage", vanishes=True),
)
SHOCK_COLUMNS = "seed|half of|that|before|at least|at the end|answers paid|until as before|verdict"


@dataclass(frozen=True)
class Shocked:
    """What a shock did: to the answers or, where stores go, to the copies of leased blobs."""

    seed: int
    shock: Shock
    found: Recovery
    paid: float  # of what was answered after it
    missed: tuple[str, ...]

    def format_cells(self) -> list[str]:
        found = self.found
        recovery = "never" if found.recovery_ms is None else f"{found.recovery_ms / 1_000:g} s"
        way = "says nothing any more" if self.shock.vanishes else "takes its stake back"
        shares = (found.before, found.least, found.after, self.paid)
        return [str(self.seed), self.shock.role, way, *(f"{share:.1%}" for share in shares), recovery, self.verdict]

    @property
    def verdict(self) -> str:
        if self.missed and self.shock.known:
            return f"{'; '.join(self.missed)}: known, see decision {self.shock.known}"
        return "; ".join(self.missed) or "holds"

    def to_dict(self) -> dict[str, Any]:
        found = self.found
        seconds = None if found.recovery_ms is None else found.recovery_ms / 1_000
        return {
            "name": f"half_{self.shock.name}",
            "value": seconds,
            "unit": "s",
            "peer": "bar",
            "peer_value": RECOVERY_MS_MAX / 1_000,
            "ratio": 0.0,
            "seed": self.seed,
            "before": found.before,
            "least": found.least,
            "after": found.after,
            "paid": self.paid,
            "missed": list(self.missed),
            "known": self.shock.known,
        }


def play_shock(setting: Setting, seed: int, shock: Shock) -> Shocked:
    """One network in which half of a role goes."""
    story = Story(setting, seed)
    is_settled = story.play((BUSY,), shock, SHOCK_EPOCH)
    epochs = [each for each in story.epochs if each.number >= SHOCK_EPOCH]
    found = compute_recovery(story.kept if shock.role == "storage" else story.list_served(), story.shock_ms)
    paid = sum(each.paid for each in epochs) / max(1, sum(each.answered for each in epochs))
    missed = []
    if not is_settled:
        missed.append("something was still open at the end")
    if found.recovery_ms is None or found.recovery_ms > RECOVERY_MS_MAX:
        missed.append(f"not as before within {RECOVERY_MS_MAX / 1_000:g} s")
    if paid < PAID_MIN:
        missed.append(f"{1 - paid:.1%} of what was answered was not paid")
    return Shocked(seed, shock, found, paid, tuple(missed))
