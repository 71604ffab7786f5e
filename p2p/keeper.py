"""The keeper: knows where peers can be dialled and sees to it that enough of them are connected.

`AddressBook` is the decision, a plain object fed with times; `Keeper` runs it on a host.
"""

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import trio

from p2p.addresses import parse_address
from p2p.host import Host

ADDRESSES_MAX = 8
BOOK_MAX = 1_024
DIALS_MAX = 8
PAUSE_S_MIN, PAUSE_S_MAX = 0.25, 10.0
YIELD_S = 0.25  # of two peers that know each other, the one with the larger key lets the other dial first
STABLE_S = 5.0  # a connection that lasted so long was a good one
FORGET_S = 3_600.0
ALL_UP_TO = 40  # a book this small is dialled whole
PEERS_WANTED = 20  # of a larger one, this many
OUTBOUND_MIN = 8  # connections we chose ourselves: whoever fills us with inbound ones must not be all we hear
HURRY_S = 1.0
SEEK_S = 10.0  # so long peers are sought for a topic nobody heard us on
SEEK_DIALS = 4  # at once, beyond the peers wanted anyway
PEERS_SOUGHT_MAX = 60  # with so many connected, seeking more has not helped and will not
SOUGHT_MAX = 64
TOPICS_PER_PEER_MAX = 64
KNOWN_S = 60.0  # a peer we reached so long ago, and have not forgotten since, is known
REMEMBERED_MAX = 256


@dataclass
class Entry:
    """What is known of one peer that can be dialled.

    `due_s`: when to dial it next; `since_s`: last sign of life; `reached_s`: when a dial of ours first found it there;
    `topics`: what it listened to when it was last connected.
    """

    addresses: tuple[str, ...]
    since_s: float
    due_s: float
    failures: int = 0
    reached_s: float | None = None
    topics: tuple[str, ...] = ()


@dataclass
class AddressBook:
    """Peers and when to dial them, at most BOOK_MAX. Pure: time is handed in, in seconds."""

    node: bytes
    dice: random.Random
    entries: dict[bytes, Entry] = field(default_factory=dict)
    always: frozenset[bytes] = frozenset()  # peers the operator wants connected, whatever else is
    sought: dict[str, float] = field(default_factory=dict)  # topics nobody heard us on, and since when
    wants_more: bool = False  # one peer beyond those wanted anyway

    def learn(self, peer: bytes, addresses: tuple[str, ...], now_s: float) -> None:
        """Remember addresses, newest first; those that cannot be dialled are left out."""
        good = tuple(text for text in addresses if parse_address(text) is not None)[:ADDRESSES_MAX]
        if peer == self.node or not good:
            return
        entry = self.entries.get(peer)
        if entry is None:
            if len(self.entries) >= BOOK_MAX:
                others = [known for known in self.entries if known not in self.always]
                del self.entries[min(others, key=lambda known: self.entries[known].since_s)]
            wait = YIELD_S * (1 + self.dice.random()) if peer < self.node else 0.0
            self.entries[peer] = Entry(good, now_s, now_s + wait)
            return
        merged = tuple(dict.fromkeys((*good, *entry.addresses)))[:ADDRESSES_MAX]
        if merged[0] != entry.addresses[0]:
            entry.due_s = min(entry.due_s, now_s)
        entry.addresses = merged

    def get_addresses(self, peer: bytes) -> tuple[str, ...]:
        entry = self.entries.get(peer)
        return entry.addresses if entry is not None else ()

    def note_up(self, peer: bytes, now_s: float) -> None:
        if (entry := self.entries.get(peer)) is not None:
            entry.since_s = now_s

    def note_down(self, peer: bytes, now_s: float) -> None:
        """A connection ended: try at once, but not both sides at the same moment, and not again and again."""
        entry = self.entries.get(peer)
        if entry is None:
            return
        entry.failures = 0 if now_s - entry.since_s >= STABLE_S else entry.failures + 1
        entry.since_s = now_s
        entry.due_s = now_s + self._compute_pause(entry.failures) + (YIELD_S if peer < self.node else 0.0)

    def note_failed(self, peer: bytes, now_s: float) -> None:
        """A dial failed: wait longer each time, with jitter, and in the end forget the peer."""
        entry = self.entries.get(peer)
        if entry is None:
            return
        if now_s - entry.since_s > FORGET_S and peer not in self.always:
            del self.entries[peer]
            return
        entry.failures += 1
        entry.due_s = now_s + self._compute_pause(entry.failures)

    def _compute_pause(self, failures: int) -> float:
        return min(PAUSE_S_MIN * float(1 << min(failures, 16)), PAUSE_S_MAX) * (0.5 + self.dice.random())

    def note_reached(self, peer: bytes, now_s: float) -> None:
        """A dial of ours found the peer where it was said to be."""
        entry = self.entries.get(peer)
        if entry is not None and entry.reached_s is None:
            entry.reached_s = now_s

    def note_topics(self, peer: bytes, topics: tuple[str, ...]) -> None:
        """What a connected peer listens to; nothing leaves what was known before."""
        entry = self.entries.get(peer)
        if entry is not None and topics:
            entry.topics = topics[:TOPICS_PER_PEER_MAX]

    def is_known(self, peer: bytes, now_s: float) -> bool:
        """Whether a peer is more than someone who just came: we have reached it ourselves, a while ago."""
        entry = self.entries.get(peer)
        return entry is not None and entry.reached_s is not None and now_s - entry.reached_s >= KNOWN_S

    def hurry(self, topic: str, now_s: float) -> bool:
        """Nobody heard us on a topic: seek peers for it now. False when that was said a moment ago."""
        if now_s - self.sought.get(topic, float("-inf")) < HURRY_S:
            return False
        self.sought.pop(topic, None)
        if len(self.sought) >= SOUGHT_MAX:
            del self.sought[next(iter(self.sought))]
        self.sought[topic] = now_s
        for entry in self.entries.values():
            entry.due_s = min(entry.due_s, now_s)
        return True

    def choose(
        self, connected: frozenset[bytes], busy: frozenset[bytes], now_s: float, outbound: int | None = None
    ) -> tuple[list[bytes], float]:
        """Peers to dial now, and when to look again (seconds; infinite when nothing is wanted).

        `outbound` is how many of the connections are our own dials; all of them unless given.
        """
        missing = [peer for peer in self.entries if peer not in connected and peer not in busy]
        outbound = len(connected) if outbound is None else outbound
        sought = {topic for topic, since_s in self.sought.items() if now_s - since_s < SEEK_S}
        wanted = self._count_wanted(len(missing), len(connected) + len(busy), outbound + len(busy), bool(sought), busy)
        wanted = max(wanted, sum(peer in self.always for peer in missing))
        if not wanted:
            return [], float("inf")

        def rank(peer: bytes) -> tuple[bool, bool, float, bytes]:
            entry = self.entries[peer]
            return peer not in self.always, sought.isdisjoint(entry.topics), entry.due_s, peer

        due = sorted(missing, key=rank)
        now = [peer for peer in due if self.entries[peer].due_s <= now_s][: min(wanted, DIALS_MAX - len(busy))]
        self.wants_more = self.wants_more and not now
        # Those due already and not chosen get their turn when a dial ends.
        later = [self.entries[peer].due_s for peer in due if self.entries[peer].due_s > now_s]
        return now, min(later, default=float("inf"))

    def _count_wanted(self, missing: int, held: int, outbound: int, is_seeking: bool, busy: frozenset[bytes]) -> int:
        if len(self.entries) <= ALL_UP_TO:
            return missing
        seeking = max(0, SEEK_DIALS - len(busy)) if is_seeking else int(self.wants_more)
        seeking = seeking if held < PEERS_SOUGHT_MAX else 0
        return max(0, PEERS_WANTED - held, OUTBOUND_MIN - outbound, seeking)

    def remember(self) -> list[dict[str, Any]]:
        """Peers worth dialling first by the next process, as JSON can hold them: those we reached, latest first."""
        reached = [(peer, entry) for peer, entry in self.entries.items() if entry.reached_s is not None]
        reached.sort(key=lambda item: (-item[1].since_s, item[0]))
        return [
            {"node": peer.hex(), "addresses": list(entry.addresses), "topics": list(entry.topics)}
            for peer, entry in reached[:REMEMBERED_MAX]
        ]

    def restore(self, remembered: Iterable[Mapping[str, Any]], now_s: float) -> None:
        """Take over what an earlier process remembered. ValueError, TypeError or KeyError when it is not that."""
        for fields in list(remembered)[:REMEMBERED_MAX]:
            peer = bytes.fromhex(fields["node"])
            if len(peer) != 32:
                raise ValueError("a node key is 32 bytes")
            self.learn(peer, tuple(str(text) for text in fields["addresses"]), now_s)
            if (entry := self.entries.get(peer)) is not None:
                entry.reached_s = now_s - KNOWN_S
                entry.topics = tuple(str(text) for text in fields["topics"])[:TOPICS_PER_PEER_MAX]


class Keeper:
    """Dials what the book says, redials what is lost, and believes only in connections it can see."""

    def __init__(
        self,
        host: Host,
        dice: random.Random,
        is_refused: Callable[[bytes], bool],
        direct: Mapping[bytes, tuple[str, ...]] | None = None,
    ) -> None:
        self.book = AddressBook(host.node, dice, always=frozenset(direct or ()))
        self._host = host
        self._is_refused = is_refused
        self._busy: set[bytes] = set()
        self._wake = trio.Event()
        for peer, addresses in (direct or {}).items():
            self.learn(peer, addresses)

    def learn(self, peer: bytes, addresses: tuple[str, ...]) -> None:
        self.book.learn(peer, addresses, trio.current_time())
        self._wake.set()

    def note_up(self, peer: bytes) -> None:
        self.book.note_up(peer, trio.current_time())

    def note_down(self, peer: bytes) -> None:
        self.book.note_down(peer, trio.current_time())
        self._wake.set()

    def note_topics(self, peer: bytes, topics: tuple[str, ...]) -> None:
        self.book.note_topics(peer, topics)

    def is_known(self, peer: bytes) -> bool:
        return self.book.is_known(peer, trio.current_time())

    def remember(self) -> list[dict[str, Any]]:
        return self.book.remember()

    def get_sizes(self) -> dict[str, int]:
        """How much is remembered, by name."""
        return {"book": len(self.book.entries), "sought": len(self.book.sought), "dials": len(self._busy)}

    def hurry(self, topic: str) -> None:
        """Nobody heard us on a topic: look for peers now, at most once per HURRY_S."""
        if self.book.hurry(topic, trio.current_time()):
            self._wake.set()

    def seek(self) -> None:
        """Those we dialled are not enough: one more, if there is one that may be dialled by now."""
        self.book.wants_more = True
        self._wake.set()

    async def dial(self, peer: bytes) -> bool:
        """Connect to one peer now, if an address of it is known; True once connected."""
        if self._host.is_connected(peer):
            return True
        return not self._is_refused(peer) and await self._host.dial(peer, self.book.get_addresses(peer))

    async def run(self) -> None:
        """Keep peers until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                self._wake = trio.Event()
                connected = frozenset(self._host.peers())
                outbound = sum(not link.is_inbound for link in self._host.links())
                now, later_s = self.book.choose(connected, frozenset(self._busy), trio.current_time(), outbound)
                for peer in now:
                    self._busy.add(peer)
                    nursery.start_soon(self._keep, peer)
                with trio.move_on_at(later_s if len(self._busy) < DIALS_MAX else float("inf")):
                    await self._wake.wait()

    async def _keep(self, peer: bytes) -> None:
        try:
            # A dial can end without an error and without a connection: only the host's list counts.
            if not (await self.dial(peer) and self._host.is_connected(peer)):
                self.book.note_failed(peer, trio.current_time())
            elif any(link.node == peer and not link.is_inbound for link in self._host.links()):
                self.book.note_reached(peer, trio.current_time())
        finally:
            self._busy.discard(peer)
            self._wake.set()
