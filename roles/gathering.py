"""One file or folder on its way here, from several peers at once. Decides; asks for nothing itself.

A walk from the root down: what is here already is not asked for, what is missing goes into want-lists, one after the
other to each provider as it answers, so that the quick ones bring more. A block counts once it is checked and on disk.
What a provider lacks, sends wrong or brings too late is asked of the others.
Source: bitswap's sessions, with want-lists that are questions with an answer each, not a state at the other side.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from protocol.cid import RAW, Cid
from protocol.content import BLOB_BYTES_MAX
from protocol.held import Held
from protocol.messages import WANTS_MAX, WantedBlocks
from protocol.unixfs_nodes import DEPTH_MAX

LOOKED_UP_MAX = 32  # at once
READY_MAX = 256  # known to be missing and not asked for yet
WAITING_MAX = 1 << 18  # links of nodes that are here, still to be looked at
NODES_MAX = 1 << 18  # of one file or folder, leaves not counted
ASK_BYTES = 1024 * 1024  # a want-list ends where this much is known to be wanted
ASKS_MAX = 6  # of one provider, under way
UNDER_WAY_BYTES_MAX = 32 * 1024 * 1024  # asked for, or here and not on disk yet
PROVIDERS_MAX = 32
STRIKES_MAX = 8  # failures in a row, after which a provider is left alone
SLOW_MAX = 3  # times a provider was much slower than the others
SLOW_MS, SLOW_TIMES = 2_000, 4  # an answer is late after this, and after so many times as long as usual
REST_MS = 500  # of a provider that failed, times its strikes
ROUNDS_MAX = 3  # times all are asked again for what nobody had
ROUND_WAIT_MS = 500
TICK_MS = 250


class Wanted(NamedTuple):
    """A block to be had. `dag_bytes` is what its parent says it has with all below it; None for the root."""

    cid: Cid
    dag_bytes: int | None
    depth: int

    @property
    def size_max(self) -> int:
        """How many bytes the block itself may have."""
        return BLOB_BYTES_MAX if self.dag_bytes is None else min(self.dag_bytes, BLOB_BYTES_MAX)


Came = tuple[Wanted, memoryview]  # with the bytes that are said to be it


class LookUp(NamedTuple):
    """Ask the disk which of these are here."""

    cids: tuple[Cid, ...]


class Ask(NamedTuple):
    """Send a want-list to a peer; `number` names it from then on."""

    number: int
    peer: bytes
    digests: tuple[bytes, ...]


class Keep(NamedTuple):
    """Check these and bring them to the disk. The number is that of the want-list they answer."""

    number: int
    blocks: tuple[tuple[Cid, memoryview], ...]


class Blame(NamedTuple):
    peer: bytes
    reason: str


class Finish(NamedTuple):
    """All of it is here."""


class GiveUp(NamedTuple):
    """It cannot be had; `is_hopeless` when it is the file or folder itself that is wrong."""

    reason: str
    is_hopeless: bool = False


Step = LookUp | Ask | Keep | Blame | Finish | GiveUp


@dataclass
class Provider:
    """What one peer has done for us so far."""

    window: int = 1  # want-lists that may be under way; grows with what it brings
    asks: int = 0  # that are
    strikes: int = 0
    slow: int = 0
    rests_until_ms: int = 0
    bytes: int = 0
    reason: str = ""  # why it did not bring what it was asked for, the last time
    has_lied: bool = False

    @property
    def is_alive(self) -> bool:
        """Whether it may be asked at all."""
        return not self.has_lied and self.strikes < STRIKES_MAX

    @property
    def is_usable(self) -> bool:
        """Whether it is asked now: who is slow only once the others have not brought it."""
        return self.is_alive and self.slow < SLOW_MAX


@dataclass
class _Asked:
    peer: bytes
    wants: tuple[Wanted, ...]
    size: int
    since_ms: int
    is_late: bool = False


@dataclass
class Gathering:
    """What is wanted, where it was asked for, and what came. Calls return what to do next, in order."""

    root: Cid
    providers: dict[bytes, Provider] = field(default_factory=dict)
    blocks: int = 0
    block_bytes: int = 0  # of blocks that came or were here, with repetitions
    total_bytes: int = 0  # by the root's word, once it is here
    has_ended: bool = False
    _waiting: list[Wanted] = field(default_factory=list)  # the last first
    _looking: dict[bytes, Wanted] = field(default_factory=dict)
    _ready: deque[Wanted] = field(default_factory=deque)
    _asked: dict[int, _Asked] = field(default_factory=dict)
    _keeping: dict[int, tuple[bytes, dict[bytes, Wanted]]] = field(default_factory=dict)
    _keeping_bytes: int = 0
    _wanted: set[bytes] = field(default_factory=set)  # digests of what is ready or asked for
    _coming: set[bytes] = field(default_factory=set)  # of what is being kept
    _tried: dict[bytes, set[bytes]] = field(default_factory=dict)  # who did not bring a block in this round
    _nodes: set[bytes] = field(default_factory=set)  # that have been gone through
    _number: int = 0
    _rounds: int = 0
    _round_at_ms: int | None = None
    _usual_ms: float = 0.0  # that an answer takes
    _end: Step | None = None  # decided, and waits for the disk

    def begin(self, peers: Iterable[bytes]) -> list[Step]:
        self.add_providers(peers)
        self._waiting.append(Wanted(self.root, None, 0))
        return self._go_on(0)

    def has_asked(self, number: int) -> bool:
        """Whether a want-list of this number waits for its answer."""
        return number in self._asked

    def add_providers(self, peers: Iterable[bytes]) -> None:
        for peer in peers:
            if len(self.providers) < PROVIDERS_MAX:
                self.providers.setdefault(peer, Provider())

    # What the disk says

    def on_looked_up(self, held: Sequence[Held], missing: Sequence[Cid], error: str, now_ms: int) -> list[Step]:
        looked, self._looking = self._looking, {}
        if error:
            return self._give_up(error)
        for each in held:
            self._take_in(looked[each.cid.digest], each)
        for cid in missing:
            self._ready.append(looked[cid.digest])
            self._wanted.add(cid.digest)
        return self._go_on(now_ms)

    def on_kept(self, number: int, held: Sequence[Held], bad: Sequence[Cid], error: str, now_ms: int) -> list[Step]:
        """`bad` are those whose bytes did not fit their names."""
        peer, wants = self._keeping.pop(number)
        self._keeping_bytes -= sum(want.size_max for want in wants.values())
        self._coming -= wants.keys()
        if error:
            return self._give_up(error)
        steps: list[Step] = []
        provider = self.providers[peer]
        for each in held:
            self._tried.pop(each.cid.digest, None)
            self._take_in(wants[each.cid.digest], each)
        if held:
            self._rounds, self._round_at_ms = 0, None
        if bad:
            steps += self._bar(peer, provider, f"sent other bytes than {bad[0]}")
            self._wanted |= {cid.digest for cid in bad}
            self._put_back([wants[cid.digest] for cid in bad], peer)
        return [*steps, *self._go_on(now_ms)]

    def _take_in(self, want: Wanted, held: Held) -> None:
        """A block is here: what it links comes next."""
        if want.dag_bytes is not None and held.dag_bytes != want.dag_bytes:
            what = f"{want.cid} has {held.dag_bytes} bytes with all below it, what links it says {want.dag_bytes}"
            self._end = GiveUp(what, is_hopeless=True)
            return
        if want.dag_bytes is None:
            self.total_bytes = held.dag_bytes
        self.blocks += 1
        self.block_bytes += held.dag_bytes - sum(link.dag_bytes for link in held.links)
        if want.cid.codec == RAW or want.cid.digest in self._nodes:
            return
        self._nodes.add(want.cid.digest)
        if want.depth + 1 >= DEPTH_MAX:
            self._end = GiveUp(f"more than {DEPTH_MAX} nodes below each other", is_hopeless=True)
        elif len(self._nodes) > NODES_MAX or len(self._waiting) + len(held.links) > WAITING_MAX:
            self._end = GiveUp(f"more than {NODES_MAX} nodes: fetch its parts one by one", is_hopeless=True)
        else:
            below = [Wanted(link.cid, link.dag_bytes, want.depth + 1) for link in held.links]
            self._waiting += reversed(below)

    # What peers say

    def on_answer(self, number: int, answer: WantedBlocks, now_ms: int) -> list[Step]:
        asked = self._asked.pop(number)
        provider = self.providers[asked.peer]
        provider.asks -= 1
        if self._end is not None:
            return self._go_on(now_ms)
        try:
            blocks, lacking, left = _match(asked.wants, answer)
        except ValueError as error:
            if not asked.is_late:
                self._put_back(asked.wants, asked.peer)
            return [*self._bar(asked.peer, provider, str(error)), *self._go_on(now_ms)]
        blocks = self._accept(blocks)
        if asked.is_late:  # these have been asked of others
            lacking, left = [], []
        steps: list[Step] = []
        took_ms = now_ms - asked.since_ms
        self._usual_ms = took_ms if not self._usual_ms else 0.8 * self._usual_ms + 0.2 * took_ms
        if blocks:
            provider.strikes = provider.slow = 0
            provider.window = min(ASKS_MAX, provider.window + 1)
            provider.bytes += len(answer.data)
            wants = {want.cid.digest: want for want, _ in blocks}
            self._keeping[number] = (asked.peer, wants)
            self._keeping_bytes += sum(want.size_max for want in wants.values())
            steps.append(Keep(number, tuple((want.cid, data) for want, data in blocks)))
        self._return(left)
        if lacking:
            provider.reason = f"does not have {lacking[0].cid}"
            self._put_back(lacking, asked.peer)
        return [*steps, *self._go_on(now_ms)]

    def _accept(self, blocks: list[Came]) -> list[Came]:
        """Of what came, what nobody else has brought before: something late may come twice."""
        new = [block for block in blocks if block[0].cid.digest in self._wanted]
        came = {want.cid.digest for want, _ in new}
        self._wanted -= came
        self._coming |= came
        if any(want.cid.digest in came for want in self._ready):
            self._ready = deque(want for want in self._ready if want.cid.digest not in came)
        return new

    def _return(self, wants: Sequence[Wanted]) -> None:
        """Have these asked for before all others, unless they have come in the meantime."""
        self._ready.extendleft(want for want in reversed(wants) if want.cid.digest in self._wanted)

    def on_failure(self, number: int, reason: str, now_ms: int) -> list[Step]:
        """The peer said no, or nothing."""
        asked = self._asked.pop(number)
        provider = self.providers[asked.peer]
        provider.asks -= 1
        provider.reason = reason
        provider.window = 1
        provider.strikes += 1
        provider.rests_until_ms = now_ms + REST_MS * provider.strikes
        if not asked.is_late:
            # It may be asked for the same again, once it has rested.
            self._return(asked.wants)
        return self._go_on(now_ms)

    def on_tick(self, now_ms: int) -> list[Step]:
        """Time has passed: look for answers that are late."""
        limit_ms = max(SLOW_MS, SLOW_TIMES * self._usual_ms)
        slow: set[bytes] = set()
        for asked in self._asked.values():
            if asked.is_late or now_ms - asked.since_ms < limit_ms or not self._has_others(asked):
                continue
            asked.is_late = True
            asked.size = 0
            slow.add(asked.peer)
            self._put_back(asked.wants, asked.peer)
        for peer in slow:
            provider = self.providers[peer]
            provider.window = 1
            provider.slow += 1
            provider.reason = f"too slow: no answer within {limit_ms / 1000:.1f} s"
        return self._go_on(now_ms)

    def _has_others(self, asked: _Asked) -> bool:
        """Whether somebody else can be asked for the same."""
        tried = self._tried.get(asked.wants[0].cid.digest, set())
        usable = (peer for peer, provider in self.providers.items() if provider.is_usable)
        return any(peer != asked.peer and peer not in tried for peer in usable)

    def _bar(self, peer: bytes, provider: Provider, reason: str) -> list[Step]:
        """Ask it nothing more. It is blamed once, whatever else of it is still under way."""
        if provider.has_lied:
            return []
        provider.has_lied, provider.reason = True, reason
        return [Blame(peer, reason)]

    def _put_back(self, wants: Sequence[Wanted], peer: bytes) -> None:
        """Have others asked for these."""
        for want in wants:
            self._tried.setdefault(want.cid.digest, set()).add(peer)
        self._return(wants)

    # What comes next

    def _go_on(self, now_ms: int) -> list[Step]:
        if self.has_ended:
            return []
        if self._end is None:
            steps = [*self._look_up(), *self._ask(now_ms)]
            if steps or self._looking or self._keeping or any(not asked.is_late for asked in self._asked.values()):
                return steps
            if self._ready:
                return self._wait_or_give_up(now_ms)
            self._end = Finish()
        # The disk is waited for, so that nothing is at work on what is given up.
        if self._looking or self._keeping:
            return []
        self.has_ended = True
        return [self._end]

    def _give_up(self, reason: str) -> list[Step]:
        self._end = GiveUp(reason)
        return self._go_on(0)

    def _look_up(self) -> list[Step]:
        if self._looking or len(self._ready) >= READY_MAX:
            return []
        while self._waiting and len(self._looking) < LOOKED_UP_MAX:
            want = self._waiting.pop()
            digest = want.cid.digest
            # What is on its way will be here; a node that was gone through once has nothing new below it.
            is_known = digest in self._wanted or digest in self._coming or digest in self._nodes
            if not is_known and digest not in self._looking:
                self._looking[digest] = want
        return [LookUp(tuple(want.cid for want in self._looking.values()))] if self._looking else []

    def _ask(self, now_ms: int) -> list[Step]:
        asks: list[Step] = []
        free = [
            (peer, provider)
            for peer, provider in self.providers.items()
            if provider.is_usable and provider.rests_until_ms <= now_ms
        ]
        # Whoever has least to do comes first, so that work is shared out evenly while all are equally quick.
        while self._ready and free and self._count_under_way() < UNDER_WAY_BYTES_MAX:
            peer, provider = min(free, key=lambda item: item[1].asks)
            share = -(-len(self._ready) // len(free))  # when little is left, all have a part of it
            wants = self._take_ready(peer, share) if provider.asks < provider.window else []
            if not wants:
                free.remove((peer, provider))
                continue
            self._number += 1
            provider.asks += 1
            self._asked[self._number] = _Asked(peer, tuple(wants), sum(want.size_max for want in wants), now_ms)
            asks.append(Ask(self._number, peer, tuple(want.cid.digest for want in wants)))
        return asks

    def _take_ready(self, peer: bytes, count_max: int) -> list[Wanted]:
        """What to ask this peer for next."""
        count_max = min(count_max, WANTS_MAX)
        wants: list[Wanted] = []
        passed: list[Wanted] = []
        size = 0
        while self._ready and len(wants) < count_max and (not wants or size + self._ready[0].size_max <= ASK_BYTES):
            want = self._ready.popleft()
            if peer in self._tried.get(want.cid.digest, ()):
                passed.append(want)
                continue
            wants.append(want)
            size += want.size_max
        self._ready.extendleft(reversed(passed))
        return wants

    def _count_under_way(self) -> int:
        return self._keeping_bytes + sum(asked.size for asked in self._asked.values())

    def _wait_or_give_up(self, now_ms: int) -> list[Step]:
        """Nobody can be asked right now for what is still missing; what is late may bring it until its deadline."""
        alive = [provider for provider in self.providers.values() if provider.is_alive]
        if not alive:
            return [] if self._asked else self._give_up(self._explain("nobody left to ask"))
        if any(provider.rests_until_ms > now_ms for provider in alive):
            return []
        if self._round_at_ms is None:
            if self._rounds == ROUNDS_MAX:
                return [] if self._asked else self._give_up(self._explain("nobody has it"))
            self._rounds += 1
            self._round_at_ms = now_ms + ROUND_WAIT_MS * self._rounds
        if now_ms < self._round_at_ms:
            return []
        self._round_at_ms = None
        self._tried.clear()
        for provider in alive:
            provider.slow = 0
        return self._ask(now_ms)

    def _explain(self, what: str) -> str:
        missing = f"; still missing: {self._ready[0].cid} and {len(self._ready) + len(self._waiting) - 1} more"
        reasons = sorted({provider.reason for provider in self.providers.values() if provider.reason})
        asked = f"{len(self.providers)} asked" if self.providers else "no peer is known that keeps files"
        return f"{what}: {asked}{'; ' if reasons else ''}{'; '.join(reasons[:4])}{missing if self.blocks else ''}"


def _match(wants: Sequence[Wanted], answer: WantedBlocks) -> tuple[list[Came], list[Wanted], list[Wanted]]:
    """What of a want-list came, is not there, and did not fit. ValueError for what no honest peer answers.

    Sizes are not held against what links say: it may be the links that lie.
    """
    missing = set(answer.missing)
    lacking = [want for want in wants if want.cid.digest in missing]
    there = [want for want in wants if want.cid.digest not in missing]
    if len(lacking) != len(answer.missing) or len(answer.sizes) > len(there):
        raise ValueError("answered what it was not asked")
    if sum(answer.sizes) != len(answer.data) or not (answer.sizes or answer.missing):
        raise ValueError("answered a want-list with nothing of it")
    blocks = []
    at = 0
    data = memoryview(answer.data)
    for want, size in zip(there, answer.sizes, strict=False):
        blocks.append((want, data[at : at + size]))
        at += size
    return blocks, lacking, there[len(blocks) :]
