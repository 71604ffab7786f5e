"""Events on their way to the core. What peers can send at will is bounded here; what answers us is not dropped."""

from collections import Counter, deque

import trio

from p2p.gossip_params import is_urgent
from p2p.net import Asked, Delivered, NetEvent
from roles.core_effects import AnyEvent

URGENT_IN_A_ROW = 16
PEER_EVENTS_MAX = 4_096  # deliveries and questions of peers that wait for the core


class Inbox:
    """In order of arrival, but that what is urgent overtakes gossip that is not: a vote a thousand transactions.

    Of that gossip one is taken after URGENT_IN_A_ROW others at the latest. `Delivered` and `Asked` are dropped, and
    counted by type, when PEER_EVENTS_MAX of them wait: gossip is lossy and askers have deadlines. Everything else is
    bounded by what the node itself has under way.
    """

    def __init__(self, peer_events_max: int = PEER_EVENTS_MAX) -> None:
        self.dropped: Counter[str] = Counter()
        self._peer_events_max = peer_events_max
        self._peer_events = 0
        self._events: deque[AnyEvent] = deque()
        self._gossip: deque[AnyEvent] = deque()  # deliveries that can wait
        self._in_a_row = 0  # events taken while gossip waited
        self._filled = trio.Event()

    def __len__(self) -> int:
        return len(self._events) + len(self._gossip)

    def put(self, event: AnyEvent) -> None:
        can_wait = isinstance(event, Delivered) and not is_urgent(event.topic)
        (self._gossip if can_wait else self._events).append(event)
        self._filled.set()

    def put_from_net(self, event: NetEvent) -> None:
        """The network's sink."""
        if isinstance(event, Delivered | Asked):
            if self._peer_events >= self._peer_events_max:
                self.dropped[type(event).__name__.lower()] += 1
                return
            self._peer_events += 1
        self.put(event)

    def take(self) -> AnyEvent | None:
        """The next event; None when none waits."""
        if self._gossip and (not self._events or self._in_a_row >= URGENT_IN_A_ROW):
            event = self._gossip.popleft()
            self._in_a_row = 0
        elif self._events:
            event = self._events.popleft()
            self._in_a_row += bool(self._gossip)
        else:
            return None
        if isinstance(event, Delivered | Asked):
            self._peer_events -= 1
        return event

    async def wait(self) -> None:
        """Until at least one event waits."""
        if not len(self):
            self._filled = trio.Event()
            await self._filled.wait()
