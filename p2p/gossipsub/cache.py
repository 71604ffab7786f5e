"""What the router remembers of messages: which it has met, and the last few whole, for those who ask.

Source: gossipsub v1.0, Message Cache; pubsub specification, Message Identification.
"""

import enum
from collections import deque


class Standing(enum.IntEnum):
    """Where a message that was met stands."""

    PENDING = 0
    ACCEPTED = 1
    REJECTED = 2
    IGNORED = 3


class Sighting:
    """One message that was met. `peers` are those who sent a copy, kept only where a rule asks for them.

    `awaits` is its author, if that has not sent it yet and is to.
    """

    __slots__ = ("awaits", "expires_ms", "judged_ms", "peers", "standing")

    def __init__(self, standing: int, expires_ms: int, judged_ms: int) -> None:
        self.standing = standing
        self.expires_ms = expires_ms
        self.judged_ms = judged_ms
        self.peers: dict[bytes, None] | None = None
        self.awaits = b""


class Seen:
    """Messages met, by id, oldest first; bounded by count and age."""

    def __init__(self, seen_ms: int, seen_max: int) -> None:
        self._seen_ms = seen_ms
        self._seen_max = seen_max
        self._order: deque[bytes] = deque()
        self.sightings: dict[bytes, Sighting] = {}

    def add(self, key: bytes, standing: int, now_ms: int) -> Sighting:
        """Note a message not met before."""
        sighting = self.sightings[key] = Sighting(standing, now_ms + self._seen_ms, now_ms)
        self._order.append(key)
        if len(self._order) > self._seen_max:
            del self.sightings[self._order.popleft()]
        return sighting

    def expire(self, now_ms: int) -> None:
        while self._order and self.sightings[self._order[0]].expires_ms <= now_ms:
            del self.sightings[self._order.popleft()]


class Cached:
    """A message as it is sent. `resent` counts, by peer, how often it was sent again."""

    __slots__ = ("packet", "priority", "resent", "topic")

    def __init__(self, topic: bytes, packet: bytes, priority: int) -> None:
        self.topic = topic
        self.packet = packet
        self.priority = priority
        self.resent: dict[bytes, int] | None = None


class MessageCache:
    """The messages of the last heartbeats, in windows; bounded by bytes as well, the oldest going first."""

    def __init__(self, history_length: int, history_gossip: int, bytes_max: int) -> None:
        self._gossip = history_gossip
        self._bytes_max = bytes_max
        self._windows: deque[dict[bytes, list[bytes]]] = deque([{} for _ in range(history_length)])
        self._order: deque[bytes] = deque()
        self.messages: dict[bytes, Cached] = {}
        self.size = 0

    def put(self, key: bytes, topic: bytes, packet: bytes, priority: int) -> None:
        """Keep a message not kept yet."""
        if key in self.messages:
            return
        self.messages[key] = Cached(topic, packet, priority)
        self._order.append(key)
        window = self._windows[0]
        if topic in window:
            window[topic].append(key)
        else:
            window[topic] = [key]
        self.size += len(packet)
        while self.size > self._bytes_max:
            self._forget(self._order.popleft())

    def get_ids(self, topic: bytes) -> list[bytes]:
        """Ids of a topic's messages of the windows that are gossiped about, newest first."""
        messages = self.messages
        return [key for i in range(self._gossip) for key in self._windows[i].get(topic, ()) if key in messages]

    def shift(self) -> None:
        """A heartbeat has passed: the oldest window goes."""
        for keys in self._windows.pop().values():
            for key in keys:
                self._forget(key)
        while self._order and self._order[0] not in self.messages:
            self._order.popleft()
        self._windows.appendleft({})

    def _forget(self, key: bytes) -> None:
        message = self.messages.pop(key, None)
        if message is not None:
            self.size -= len(message.packet)
