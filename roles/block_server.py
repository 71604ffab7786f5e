"""Answers peers that want blocks: each peer in its turn, so that whoever asks for most waits longest. Pure.

How much one peer may have under way is bounded by PER_PEER_MAX answers of a block's size; kubo's bitswap has 2 MiB.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import Any

from protocol.content import BLOB_BYTES_MAX, format_cid
from protocol.errors import MissingBlob
from protocol.messages import Blob, GetBlob, Refused, WantBlocks, WantedBlocks
from roles.core_effects import Log
from roles.courier import Courier, Out
from roles.store_effects import BlocksRead, ReadBlocks

READS_MAX = 4  # at once; each is one answer
PER_PEER_MAX = 8  # one peer's want-lists that wait, or are being read for
WAITING_MAX = 1_024

Question = GetBlob | WantBlocks


class BlockServer:
    """Tokens are those of the peers' requests."""

    def __init__(self, courier: Courier) -> None:
        self._courier = courier
        self._queues: OrderedDict[bytes, deque[tuple[str, Question]]] = OrderedDict()  # the next peer first
        self._reading: dict[str, tuple[bytes, Question]] = {}
        self._waiting = 0

    def on_asked(self, peer: bytes, token: str, question: Any) -> list[Out]:
        if not isinstance(question, Question):
            return [self._courier.reply_bare(token, Refused(f"{type(question).__name__} is no question for blocks"))]
        taken = len(self._queues.get(peer, ())) + sum(reader == peer for reader, _ in self._reading.values())
        if taken >= PER_PEER_MAX or self._waiting >= WAITING_MAX:
            return [self._courier.reply_bare(token, Refused("busy: too many want-lists wait here"))]
        self._queues.setdefault(peer, deque()).append((token, question))
        self._waiting += 1
        return self._read_next()

    def on_read(self, event: BlocksRead) -> list[Out]:
        peer, question = self._reading.pop(event.token)
        size = sum(map(len, event.blocks))
        served = Log("blob.served", {"to": peer, "blocks": len(event.blocks), "bytes": size})
        answer: Any = WantedBlocks(tuple(map(len, event.blocks)), b"".join(event.blocks), event.missing)
        if isinstance(question, GetBlob):
            answer = Blob(event.blocks[0]) if event.blocks else Refused(f"{format_cid(event.missing[0])}: not here")
        return [self._courier.reply_bare(event.token, answer), served, *self._read_next()]

    def _read_next(self) -> list[Out]:
        reads: list[Out] = []
        while self._queues and len(self._reading) < READS_MAX:
            peer, queue = self._queues.popitem(last=False)
            token, question = queue.popleft()
            if queue:
                self._queues[peer] = queue  # behind all others
            self._waiting -= 1
            self._reading[token] = (peer, question)
            digests = (question.digest,) if isinstance(question, GetBlob) else question.digests
            reads.append(ReadBlocks(token, digests, BLOB_BYTES_MAX))
        return reads


def read_blocks(token: str, digests: Sequence[bytes], bytes_max: int, read: Callable[[bytes], bytes]) -> BlocksRead:
    """As many of these as fit, in order."""
    blocks: list[bytes] = []
    missing: list[bytes] = []
    for digest in digests:
        try:
            data = read(digest)
        except MissingBlob:
            missing.append(digest)
            continue
        if sum(map(len, blocks)) + len(data) > bytes_max:
            break
        blocks.append(data)
    return BlocksRead(token, tuple(blocks), tuple(missing))
