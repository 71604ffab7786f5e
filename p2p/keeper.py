"""The keeper: knows where peers can be dialled and sees to it that enough of them are connected.

`AddressBook` is the decision, a plain object fed with times; `Keeper` runs it on a host.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from p2p.host import Host, parse_address

ADDRESSES_MAX = 8
BOOK_MAX = 1_024
DIALS_MAX = 8
PAUSE_S_MIN, PAUSE_S_MAX = 0.25, 10.0
YIELD_S = 0.25  # of two peers that know each other, the one with the larger key lets the other dial first
STABLE_S = 5.0  # a connection that lasted so long was a good one
FORGET_S = 3_600.0
ALL_UP_TO = 40  # a book this small is dialled whole
PEERS_WANTED = 20  # of a larger one, this many
HURRY_S = 1.0


@dataclass
class Entry:
    """What is known of one peer that can be dialled. `due_s`: when to dial it next; `since_s`: last sign of life."""

    addresses: tuple[str, ...]
    since_s: float
    due_s: float
    failures: int = 0


@dataclass
class AddressBook:
    """Peers and when to dial them, at most BOOK_MAX. Pure: time is handed in, in seconds."""

    node: bytes
    dice: random.Random
    entries: dict[bytes, Entry] = field(default_factory=dict)

    def learn(self, peer: bytes, addresses: tuple[str, ...], now_s: float) -> None:
        """Remember addresses, newest first; those that cannot be dialled are left out."""
        good = tuple(text for text in addresses if parse_address(text) is not None)[:ADDRESSES_MAX]
        if peer == self.node or not good:
            return
        entry = self.entries.get(peer)
        if entry is None:
            if len(self.entries) >= BOOK_MAX:
                del self.entries[min(self.entries, key=lambda known: self.entries[known].since_s)]
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
        if now_s - entry.since_s > FORGET_S:
            del self.entries[peer]
            return
        entry.failures += 1
        entry.due_s = now_s + self._compute_pause(entry.failures)

    def _compute_pause(self, failures: int) -> float:
        return min(PAUSE_S_MIN * float(1 << min(failures, 16)), PAUSE_S_MAX) * (0.5 + self.dice.random())

    def hurry(self, now_s: float) -> None:
        """Somebody is missed: dial everyone soon."""
        for entry in self.entries.values():
            entry.due_s = min(entry.due_s, now_s)

    def choose(self, connected: frozenset[bytes], busy: frozenset[bytes], now_s: float) -> tuple[list[bytes], float]:
        """Peers to dial now, and when to look again (seconds; infinite when nothing is wanted)."""
        missing = [peer for peer in self.entries if peer not in connected and peer not in busy]
        wanted = len(missing) if len(self.entries) <= ALL_UP_TO else max(0, PEERS_WANTED - len(connected) - len(busy))
        if not wanted:
            return [], float("inf")
        due = sorted(missing, key=lambda peer: (self.entries[peer].due_s, peer))
        now = [peer for peer in due if self.entries[peer].due_s <= now_s][: min(wanted, DIALS_MAX - len(busy))]
        # Those due already and not chosen get their turn when a dial ends.
        later = [self.entries[peer].due_s for peer in due if self.entries[peer].due_s > now_s]
        return now, min(later, default=float("inf"))


class Keeper:
    """Dials what the book says, redials what is lost, and believes only in connections it can see."""

    def __init__(self, host: Host, dice: random.Random, is_refused: Callable[[bytes], bool]) -> None:
        self.book = AddressBook(host.node, dice)
        self._host = host
        self._is_refused = is_refused
        self._busy: set[bytes] = set()
        self._wake = trio.Event()
        self._hurried_s = float("-inf")

    def learn(self, peer: bytes, addresses: tuple[str, ...]) -> None:
        self.book.learn(peer, addresses, trio.current_time())
        self._wake.set()

    def note_up(self, peer: bytes) -> None:
        self.book.note_up(peer, trio.current_time())

    def note_down(self, peer: bytes) -> None:
        self.book.note_down(peer, trio.current_time())
        self._wake.set()

    def hurry(self) -> None:
        """Nobody heard us: look for peers now, at most once per HURRY_S."""
        now_s = trio.current_time()
        if now_s - self._hurried_s >= HURRY_S:
            self._hurried_s = now_s
            self.book.hurry(now_s)
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
                now, later_s = self.book.choose(connected, frozenset(self._busy), trio.current_time())
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
        finally:
            self._busy.discard(peer)
            self._wake.set()
