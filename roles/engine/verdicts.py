"""What a pool has found out about models: admitted, refused, or refused for a while because they end their workers."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import TypeVar

REMEMBERED_MAX = 256  # verdicts, and models whose workers ended
BACKOFF_S_MAX = 10.0
KILLS_MAX = 5  # ends of its workers in a row, without a finished job in between, for which a model is blamed
BLAMED_S = 600.0  # then it gets another chance: memory may have been short, and not for its sake

V = TypeVar("V")


@dataclass(frozen=True)
class Admission:
    """Whether a model is run here, and why: what it takes and gives, or what stands against it."""

    is_admitted: bool
    reason: str

    def format(self) -> str:
        """One line for a node's status."""
        return f"{'admitted' if self.is_admitted else 'refused'}: {self.reason}"


@dataclass
class _Kills:
    """How often a model has ended its workers in a row, and until when it is refused for it."""

    count: int = 0
    until_s: float = 0.0
    reason: str = ""


class Verdicts:
    """By digest of the model, bounded: the oldest are forgotten first."""

    def __init__(self) -> None:
        self._admissions: OrderedDict[bytes, Admission] = OrderedDict()
        self._kills: OrderedDict[bytes, _Kills] = OrderedDict()

    def get(self, model: bytes, now_s: float) -> Admission | None:
        """The verdict that holds now; None when the model has not been loaded yet."""
        kills = self._kills.get(model)
        if kills is not None and kills.until_s > now_s:
            return Admission(False, kills.reason)
        return self._admissions.get(model)

    def get_all(self, now_s: float) -> dict[bytes, Admission]:
        """All that hold now."""
        found = {model: self.get(model, now_s) for model in (*self._admissions, *self._kills)}
        return {model: admission for model, admission in found.items() if admission is not None}

    def settle(self, model: bytes, admission: Admission) -> None:
        """What its bytes came to, once and for all."""
        _remember(self._admissions, model, admission)

    def forgive(self, model: bytes) -> None:
        """It has finished a job: what was before is forgotten."""
        self._kills.pop(model, None)

    def count_kill(self, model: bytes, how: str, now_s: float, is_blamed: bool = True) -> Admission | None:
        """A worker has ended with this model in its hands, or had to be ended. The refusal, if it is one too many.

        Not `is_blamed` is a model that the worker had not even been given: then only the next one waits longer.
        """
        kills = self._kills.get(model, _Kills())
        _remember(self._kills, model, kills)
        kills.count += 1
        if kills.count < KILLS_MAX or not is_blamed:
            return None
        kills.until_s = now_s + BLAMED_S
        kills.reason = (
            f"it ended its worker process {kills.count} times in a row, the last time so: {how};"
            f" it is tried again after {BLAMED_S:.0f} s"
        )
        return Admission(False, kills.reason)

    def excuse(self, model: bytes) -> None:
        """The last kill does not count, unless it was one too many: what was run is run once more."""
        kills = self._kills.get(model)
        if kills is not None and 0 < kills.count < KILLS_MAX:
            kills.count -= 1

    def compute_backoff_s(self, model: bytes) -> float:
        """How long its next worker waits. Not after the first kill: it may have been anyone's `kill -9`."""
        count = self._kills.get(model, _Kills()).count
        return 0.0 if count < 2 else min(0.1 * 2 ** min(count - 1, 16), BACKOFF_S_MAX)


def _remember(table: OrderedDict[bytes, V], model: bytes, value: V) -> None:
    table[model] = value
    table.move_to_end(model)
    if len(table) > REMEMBERED_MAX:
        table.popitem(last=False)
