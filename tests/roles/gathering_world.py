"""Files made of small blocks, peers that have them in part, late, wrong or not at all, and a disk: in virtual time."""

import heapq
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from protocol.cid import Cid
from protocol.content import compute_digest
from protocol.errors import MalformedMessage, MissingBlob
from protocol.held import describe_block
from protocol.messages import WantedBlocks
from protocol.unixfs import Block, FileBuilder, Root, link_entries, make_leaf
from roles.block_server import read_blocks
from roles.gathering import TICK_MS, Ask, Blame, Finish, Gathering, GiveUp, Keep, LookUp, Step

ANSWER_BYTES = 600  # of one answer, so that not all of a want-list fits
DISK_MS = 3
TIMEOUT_MS = 60_000
END_MS = 3_600_000
HONEST, LYING, SILENT, MUDDLED = "honest", "lying", "silent", "muddled"


def make_file(content: list[bytes]) -> tuple[Root, list[Block]]:
    """A file with these leaves, three to a node."""
    builder = FileBuilder(links_max=3)
    blocks = []
    for data in content:
        leaf = make_leaf(data)
        blocks += [leaf, *builder.add(leaf)]
    root, rest = builder.finish()
    return root, [*blocks, *rest]


def make_folder(files: list[list[bytes]]) -> tuple[Cid, dict[bytes, bytes]]:
    """A folder of files, inside another one: its root, and all blocks by digest."""
    blocks: list[Block] = []
    entries: dict[str, Root] = {}
    for place, content in enumerate(files):
        entries[f"file-{place}"], made = make_file(content)
        blocks += made
    inner, made = link_entries(entries)
    outer, more = link_entries({"inner": inner, "again": inner})
    return outer.cid, {block.cid.digest: block.data for block in (*blocks, *made, *more)}


@dataclass
class Peer:
    """`lacks` are blocks it does not have; it answers after `takes_ms`, if at all."""

    blocks: Mapping[bytes, bytes]
    kind: str = HONEST
    takes_ms: int = 20
    lacks: frozenset[bytes] = frozenset()
    fails: int = 0  # times it does not answer at first
    asked: list[bytes] = field(default_factory=list)
    sent: list[bytes] = field(default_factory=list)

    def answer(self, digests: tuple[bytes, ...]) -> WantedBlocks | None:
        self.asked += digests
        if self.kind == SILENT or self.fails > 0:
            self.fails -= 1
            return None
        if self.kind == MUDDLED:
            return WantedBlocks((1,), b"", ())
        there = {digest: data for digest, data in self.blocks.items() if digest not in self.lacks}
        found = read_blocks("", digests, ANSWER_BYTES, lambda digest: _find(there, digest))
        self.sent += [digest for digest in digests if digest not in found.missing][: len(found.blocks)]
        data = b"".join(found.blocks)
        if self.kind == LYING:
            data = bytes(byte ^ 1 for byte in data)
        return WantedBlocks(tuple(map(len, found.blocks)), data, found.missing)


def _find(blocks: Mapping[bytes, bytes], digest: bytes) -> bytes:
    if digest not in blocks:
        raise MissingBlob(digest)
    return blocks[digest]


class World:
    """Runs one gathering to its end."""

    def __init__(self, root: Cid, peers: Mapping[bytes, Peer], disk: Mapping[bytes, bytes] | None = None) -> None:
        self.gathering = Gathering(root)
        self.peers = peers
        self.disk = dict(disk or {})
        self.blamed: dict[bytes, str] = {}
        self.ended: Finish | GiveUp | None = None
        self.under_way_max = 0
        self.now_ms = 0
        self._count = itertools.count()
        self._events: list[tuple[int, int, object]] = []

    def run(self) -> Finish | GiveUp:
        self._carry_out(self.gathering.begin(self.peers))
        self._after(TICK_MS, lambda: self._tick())
        while self.ended is None:
            self.now_ms, _, happen = heapq.heappop(self._events)
            assert self.now_ms < END_MS, "it neither ends nor gives up"
            happen()
        return self.ended

    def _after(self, delay_ms: int, happen: object) -> None:
        heapq.heappush(self._events, (self.now_ms + delay_ms, next(self._count), happen))

    def _tick(self) -> None:
        self._carry_out(self.gathering.on_tick(self.now_ms))
        self._after(TICK_MS, lambda: self._tick())

    def _carry_out(self, steps: list[Step]) -> None:
        for step in steps:
            assert self.ended is None, "something is wanted after the end"
            match step:
                case LookUp(cids):
                    self._after(DISK_MS, lambda cids=cids: self._look_up(cids))
                case Ask(number, peer, digests):
                    assert digests
                    self._ask(number, self.peers[peer], digests)
                case Keep(number, blocks):
                    self._after(DISK_MS, lambda number=number, blocks=blocks: self._keep(number, blocks))
                case Blame(peer, reason):
                    self.blamed[peer] = reason
                case Finish() | GiveUp():
                    self.ended = step

    def _look_up(self, cids: tuple[Cid, ...]) -> None:
        held = [describe_block(cid, self.disk[cid.digest]) for cid in cids if cid.digest in self.disk]
        missing = [cid for cid in cids if cid.digest not in self.disk]
        self._carry_out(self.gathering.on_looked_up(held, missing, "", self.now_ms))

    def _ask(self, number: int, peer: Peer, digests: tuple[bytes, ...]) -> None:
        answer = peer.answer(digests)
        if answer is None:
            self._after(
                TIMEOUT_MS if peer.kind == SILENT else peer.takes_ms,
                lambda: self._carry_out(self.gathering.on_failure(number, "no answer", self.now_ms)),
            )
        else:
            self._after(peer.takes_ms, lambda: self._carry_out(self.gathering.on_answer(number, answer, self.now_ms)))

    def _keep(self, number: int, blocks: tuple[tuple[Cid, memoryview], ...]) -> None:
        good = [(cid, bytes(data)) for cid, data in blocks if compute_digest(data) == cid.digest]
        bad = [cid for cid, data in blocks if compute_digest(data) != cid.digest]
        try:
            held, error = [describe_block(cid, data) for cid, data in good], ""
            self.disk.update((cid.digest, data) for cid, data in good)
        except MalformedMessage as problem:
            held, error = [], str(problem)
        self._carry_out(self.gathering.on_kept(number, held, bad, error, self.now_ms))


def names() -> Iterator[bytes]:
    """Node keys of peers."""
    return (bytes([number]) * 32 for number in itertools.count(1))
