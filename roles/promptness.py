"""How soon workers answer, by model: one that has said nothing for much longer may have died, or never meant to."""

from roles.patience import Patience

WAIT_MS, WAIT_MS_MAX = 2_000, 30_000  # from asking a worker until another is asked beside it
WAITS = 3  # that fit into a request's time, at least
MODELS_MAX = 256


class Promptness:
    """All times in milliseconds on one clock."""

    def __init__(self) -> None:
        self._models: dict[bytes, Patience] = {}

    def note(self, model: bytes, took_ms: int) -> None:
        """A worker has answered."""
        if model not in self._models and len(self._models) >= MODELS_MAX:
            del self._models[next(iter(self._models))]
        self._models.setdefault(model, Patience(WAIT_MS, WAIT_MS_MAX)).note(took_ms)

    def note_late(self, model: bytes, now_ms: int) -> None:
        """Another worker is asked: where all are slow, that is more to do for all."""
        if model in self._models:
            self._models[model].lengthen(now_ms)

    def compute_wait(self, model: bytes, timeout_ms: int) -> int:
        """From asking until an answer is late, for a request that has `timeout_ms`."""
        known = self._models.get(model)
        return min(known.wait_ms if known else WAIT_MS_MAX, timeout_ms // WAITS)
