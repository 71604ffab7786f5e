"""How many requests a client has with workers at once: as many as they answer in good time, found out by trying.

By Little's law so many are with them as they answer in a second, times the seconds each may take. When there is more to
ask than has room, that is what the room becomes: it grows while answers come sooner than they may, and shrinks when a
network has more to do than it can, which gains nothing by having it sooner. What would wait too long for its turn is
refused at once. A queue takes up a burst; one that never ends makes every answer late and brings no more of them, so it
is kept short (CoDel, RFC 8289, which calls it a standing queue).
"""

ROOM_FIRST, ROOM_MIN, ROOM_MAX = 32, 8, 4_096
ROUND_MS = 500  # at least, of which the answers are counted
USUAL_TIMES = 4  # what an answer takes when there is little to do, that it may take when there is much,
SHARE_MIN, SHARE_MAX = 1 / 20, 1 / 4  # but of the time a request has at least so much and at most
USUAL_TIMES_MIN = 1.5  # though always so many times what is usual: else there would be no way to grow
RISE_A_MS = 0.1 / 60_000  # a model that has become slower is found out within minutes
MODELS_MAX = 256
WAIT_SHARE = 1 / 4  # of the time a request has, that it may wait for its turn,
STANDING_SHARE = 1 / 40  # and once somebody has waited for longer than that all the time,
STANDING_MIN = 16  # but so many may: where answers stall, a few that wait are no overload
GAP_MS = 1_000  # with nobody waiting, after which it is another queue
ENDS_MIN = 8  # counted before they say how often requests end


class Room:
    """For how many requests there is room. All times in milliseconds on one clock."""

    def __init__(self) -> None:
        self._size = float(ROOM_FIRST)
        self._began_ms = 0  # the round, in which all of it was taken all the time; 0 for none
        self._allowed_ms = 0.0  # what the answers of the round might have taken together
        self._slowest_ms = 0.0  # what is usual for the slowest of them
        self._round_ms = float("inf")  # how long a round is: forever, until there has been an answer
        self._usual_ms: dict[bytes, tuple[float, int]] = {}  # by model, and when it was so

    @property
    def size(self) -> int:
        return int(self._size)

    def note_answer(self, model: bytes, took_ms: int, timeout_ms: int, now_ms: int) -> None:
        """A worker has answered a request that had `timeout_ms`."""
        usual_ms = self._note_usual(model, took_ms, now_ms)
        self._slowest_ms = max(self._slowest_ms, usual_ms)
        within = min(max(SHARE_MIN * timeout_ms, USUAL_TIMES * usual_ms), SHARE_MAX * timeout_ms)
        self._allowed_ms += max(within, USUAL_TIMES_MIN * usual_ms)

    def look(self, is_taken: bool, now_ms: int) -> None:
        """Whether all of it is taken and more is wanted. To be told whenever that may have changed."""
        if self._slowest_ms:
            self._round_ms = max(ROUND_MS, self._slowest_ms)
        if not is_taken or not self._began_ms:
            self._began_ms = now_ms if is_taken else 0
        elif now_ms < self._began_ms + self._round_ms:
            return
        else:
            fits = self._allowed_ms / (now_ms - self._began_ms)
            self._size = min(max((self._size + fits) / 2, ROOM_MIN), ROOM_MAX)
            self._began_ms = now_ms
        self._allowed_ms = self._slowest_ms = 0.0

    def _note_usual(self, model: bytes, took_ms: int, now_ms: int) -> float:
        if model not in self._usual_ms and len(self._usual_ms) >= MODELS_MAX:
            del self._usual_ms[next(iter(self._usual_ms))]
        least_ms, at_ms = self._usual_ms.get(model, (float(took_ms), now_ms))
        usual_ms = min(float(took_ms), least_ms * (1 + RISE_A_MS * (now_ms - at_ms)))
        self._usual_ms[model] = usual_ms, now_ms
        return usual_ms


class Turns:
    """How long those who wait have to, told by how often a request ended while somebody waited."""

    def __init__(self) -> None:
        self._began_ms = 0  # to count, since when somebody has waited all the time; 0 while nobody does
        self._ends = 0
        self._pause_ms = 0.0  # from one end to the next, in the mean of late
        self._since_ms = self._last_ms = -GAP_MS  # when somebody has waited, without a gap

    def note_end(self, now_ms: int, waiting: int) -> None:
        """A request is over, which makes room for the first of those who wait."""
        self._note_waiting(waiting, now_ms)
        if not waiting or not self._began_ms:
            self._began_ms, self._ends = now_ms if waiting else 0, 0
            return
        self._ends += 1
        if self._ends >= ENDS_MIN and now_ms >= self._began_ms + ROUND_MS:
            pause_ms = (now_ms - self._began_ms) / self._ends
            self._pause_ms = (self._pause_ms + pause_ms) / 2 if self._pause_ms else pause_ms
            self._began_ms, self._ends = now_ms, 0

    def is_too_long(self, waiting: int, timeout_ms: int, now_ms: int) -> bool:
        """Whether a request that has `timeout_ms` had better not wait behind so many."""
        self._note_waiting(waiting, now_ms)
        is_standing = waiting > STANDING_MIN and self._last_ms - self._since_ms > WAIT_SHARE * timeout_ms
        return waiting * self._pause_ms > (STANDING_SHARE if is_standing else WAIT_SHARE) * timeout_ms

    def _note_waiting(self, waiting: int, now_ms: int) -> None:
        if waiting:
            if now_ms - self._last_ms > GAP_MS:
                self._since_ms = now_ms
            self._last_ms = now_ms
