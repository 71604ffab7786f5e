"""How long to wait for what others say by themselves before asking for it, as TCP does for its segments (RFC 6298).

What usually takes a second when there is much to do is not lost after one; asking for it then is more to do still.
"""

MEAN_GAIN, SWING_GAIN, SWINGS = 1 / 8, 1 / 4, 4


class Patience:
    """All times in milliseconds on one clock. `wait_ms` is never less than `least_ms` nor more than `most_ms`."""

    def __init__(self, least_ms: int, most_ms: int) -> None:
        self._least_ms, self._most_ms = least_ms, most_ms
        self._mean_ms: float | None = None
        self._swing_ms = 0.0
        self._lengthened_ms = -most_ms
        self.wait_ms = least_ms

    def note(self, took_ms: int) -> None:
        """It came by itself; what had been asked for is not to be told here, nobody knows what brought that (Karn)."""
        if self._mean_ms is None:
            self._mean_ms, self._swing_ms = float(took_ms), took_ms / 2
        else:
            self._swing_ms += SWING_GAIN * (abs(took_ms - self._mean_ms) - self._swing_ms)
            self._mean_ms += MEAN_GAIN * (took_ms - self._mean_ms)
        self.wait_ms = self._clip(self._mean_ms + SWINGS * self._swing_ms)

    def lengthen(self, now_ms: int) -> None:
        """Something had to be asked for: wait twice as long, until more comes by itself; once in each such time."""
        if now_ms >= self._lengthened_ms + self.wait_ms:
            self._lengthened_ms = now_ms
            self.wait_ms = self._clip(2 * self.wait_ms)

    def _clip(self, wait_ms: float) -> int:
        return round(min(max(wait_ms, self._least_ms), self._most_ms))
