"""Who tells everybody of a decided head: its leader, or the next validator when the leader's word does not come."""

from collections.abc import Sequence

from protocol.messages import Head
from roles.role import Effect, Publish, SetTimer

HEAD_WAIT_MS = 250  # for the leader's word
TIMER = "head"


class Heads:
    """What one validator has to say of the last height, unless somebody else does."""

    def __init__(self) -> None:
        self._unsaid: Head | None = None

    def decide(self, head: Head, leader: bytes, me: bytes, validators: Sequence[bytes], now_ms: int) -> list[Effect]:
        """A height is decided. Validators by vote key."""
        self._unsaid = None
        turn = (validators.index(me) - validators.index(leader)) % len(validators) if me in validators else -1
        if turn == 0:
            return [Publish("heads", head)]
        if turn != 1:
            return []
        self._unsaid = head
        return [SetTimer(TIMER, now_ms + HEAD_WAIT_MS)]

    def hear(self, head: Head) -> None:
        if self._unsaid is not None and head.header.height >= self._unsaid.header.height:
            self._unsaid = None

    def speak(self) -> list[Effect]:
        """The time for the leader's word is over."""
        head, self._unsaid = self._unsaid, None
        return [] if head is None else [Publish("heads", head)]
