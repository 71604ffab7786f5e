"""Remember which envelopes were seen: a sliding window of sequence numbers per sender and process start."""

from collections import OrderedDict
from dataclasses import dataclass

WINDOW = 4096  # sequence numbers remembered behind a sender's highest
SENDERS_MAX = 4096
_MASK = (1 << WINDOW) - 1


@dataclass
class _Seen:
    """Bit n of `bits` says that `top - n` was seen."""

    boot: int
    top: int
    bits: int


class ReplayWindow:
    """Says of each verified (sender, boot, seq) once that it is new.

    An older process start than the newest seen is never new, nor is what fell out of the window. Of more than
    `senders_max` senders the longest silent one is forgotten: whoever uses this also refuses old `time_ms`, which
    covers those.
    """

    def __init__(self, senders_max: int = SENDERS_MAX) -> None:
        self._senders_max = senders_max
        self._seen: OrderedDict[bytes, _Seen] = OrderedDict()

    def __len__(self) -> int:
        return len(self._seen)

    def is_new(self, sender: bytes, boot: int, seq: int) -> bool:
        """Whether this was not seen before; from now on it was. Ask only after the signature was verified."""
        seen = self._seen.get(sender)
        if seen is None or boot > seen.boot:
            self._seen[sender] = _Seen(boot, seq, 1)
            self._seen.move_to_end(sender)
            if len(self._seen) > self._senders_max:
                self._seen.popitem(last=False)
            return True
        self._seen.move_to_end(sender)
        return boot == seen.boot and _take(seen, seq)


def _take(seen: _Seen, seq: int) -> bool:
    if seq > seen.top:
        ahead = seq - seen.top
        seen.bits = (seen.bits << ahead | 1) & _MASK if ahead < WINDOW else 1
        seen.top = seq
        return True
    bit = seen.top - seq
    if bit >= WINDOW or seen.bits >> bit & 1:
        return False
    seen.bits |= 1 << bit
    return True
