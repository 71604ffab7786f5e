"""The guard of a running host: asks `bans` about every peer, with the host's clock, and hangs up on whom it bans."""

import random
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

import trio

from p2p.addresses import parse_ip, parse_network
from p2p.bans import FAULT, VIOLATION, Allow, Arrived, Ban, Bans, Blamed, Botched, Event, Forget, HangUp
from p2p.doors import Doors, HostLimits
from p2p.host import Host
from p2p.keeper import AddressBook, Keeper

FAULTS_KEPT = 64


class MemoryDamaged(ValueError):
    """What is said to be remembered of peers is not what `Libp2pNet.remember` gives."""


class Guard:
    """Standing of peers. `bans` decides; this carries it out. `keeper` says which peers are known from before."""

    def __init__(self, memory: Mapping[str, Any], direct: frozenset[bytes] = frozenset()) -> None:
        # Never goes back, whatever is done to the machine's clock while we run.
        self._offset_ms = time.time_ns() // 1_000_000 - int(trio.current_time() * 1_000)
        self.faults: deque[tuple[bytes, str]] = deque(maxlen=FAULTS_KEPT)
        self.changed = trio.Event()  # set once something is worth saving; whoever saves puts a new one here
        self._memory = memory
        self._direct = direct  # agreed on by their operators: faults are noted, and lead to no ban
        self._is_closed = False

    def open(self, host: Host, keeper: Keeper, tasks: trio.Nursery) -> None:
        """Stand at a host's doors."""
        self._host = host
        self._keeper = keeper
        self._tasks = tasks
        self.bans = Bans(host.doors)
        _restore(self._memory, keeper.book, self.bans, self.now_ms())
        host.guard(self._check_address, self._check_peer, self.is_known, self._note_botched)

    def close(self) -> None:
        """Blame goes on being counted; nobody is hung up on any more."""
        self._is_closed = True

    def now_ms(self) -> int:
        return self._offset_ms + int(trio.current_time() * 1_000)

    def blame(self, node: bytes, reason: str, is_violation: bool = False) -> None:
        self.faults.append((node, reason))
        if node not in self._direct:
            self._do(Blamed(node, reason, VIOLATION if is_violation else FAULT))

    def ban(self, subject: bytes | str, for_ms: int, reason: str) -> None:
        """By hand. ValueError for what is neither node key nor address nor network."""
        self._do(Ban(subject, for_ms, reason))

    def allow(self, subject: bytes | str) -> None:
        """As above."""
        self._do(Allow(subject))

    def forget(self, subject: bytes | str) -> None:
        """As above."""
        self._do(Forget(subject))

    def is_refused(self, node: bytes) -> bool:
        return self.bans.is_banned(node, self.now_ms())

    def is_known(self, node: bytes) -> bool:
        return node in self._direct or self._keeper.is_known(node) or self.bans.is_allowed(node)

    def remember(self) -> dict[str, Any]:
        """What the next process should know, as JSON can hold it."""
        return {"standing": self.bans.to_json(self.now_ms()), "peers": self._keeper.remember()}

    def _check_address(self, address: str) -> str:
        return self.bans.check_address(address, self.now_ms())

    def _note_botched(self, address: str) -> None:
        self._do(Botched(address))

    def _check_peer(self, node: bytes, address: str) -> str:
        self._do(Arrived(node, address))
        return self.bans.check_peer(node, address, self.is_known(node), self.now_ms())

    def _do(self, event: Event) -> None:
        for effect in self.bans.handle(event, self.now_ms()):
            if not isinstance(effect, HangUp):
                self.changed.set()
                continue
            for node in self._find(effect.subject):
                if not self._is_closed:
                    self._tasks.start_soon(self._host.hang_up, node)

    def _find(self, subject: bytes | str) -> list[bytes]:
        if isinstance(subject, bytes):
            return [subject]
        network = parse_network(subject)
        return [
            link.node
            for link in self._host.links()
            if (ip := parse_ip(link.address)) is not None
            and ip in network
            and not self.bans.is_allowed(link.node, link.address)
        ]


def verify_memory(memory: Mapping[str, Any]) -> None:
    """Raises MemoryDamaged for what a guard could not start from."""
    try:
        _restore(memory, AddressBook(bytes(32), random.Random(0)), Bans(Doors(HostLimits())), 0)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise MemoryDamaged(f"{type(error).__name__}: {error}") from error


def _restore(memory: Mapping[str, Any], book: AddressBook, bans: Bans, now_ms: int) -> None:
    book.restore(memory.get("peers", ()), trio.current_time())
    if "standing" in memory:
        bans.restore(memory["standing"], now_ms)
