"""A client of the benchmark: publishes transfers that it has signed before, and believes certificates alone.

It counts a transfer as final once it holds a block with it whose certificate it has verified itself, as anybody outside
would: the time includes the head's way by gossip and the block's by `sync`.
"""

import hashlib
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import repeat

import trio

from p2p.doors import HostLimits
from p2p.libp2p_net import Libp2pNet, NetOptions, open_libp2p_net
from p2p.net import GOSSIP_BYTES_MAX, Answered, Delivered, NetEvent, Unanswered
from protocol.envelope import open_message
from protocol.errors import RemoteError
from protocol.keys import PrivateKey, parse_node
from protocol.ledger.block import (
    InvalidCertificate,
    compute_block_id,
    compute_digests_root,
    get_validators,
    verify_decided,
)
from protocol.ledger.genesis import build_state
from protocol.messages import GOSSIP_LIST_MAX, Blocks, CertifiedBlock, GetBlocks, Head, Transactions
from protocol.topics import topic_name
from protocol.types import Verdict
from roles.courier import Courier, parse_token
from roles.mailbox import Mailbox
from testnet.bench.finality.network import VALIDATORS, NotReady, Validators

SEED = bytes([7]) * 32
ASK_TIMEOUT_MS = 2_000
REPEAT_S = 5.0
POLL_S = 0.25
JOIN_S = 15.0


@dataclass(frozen=True)
class Sent:
    """A transfer under way: its bytes, and when it was due to be sent, in seconds of the monotonic clock."""

    data: bytes
    due_s: float


@dataclass
class Client:
    """Opened with `open_client`."""

    validators: Validators
    final: list[tuple[float, float]] = field(default_factory=list)  # when, and how long it took; in seconds
    blocks: int = 0

    def __post_init__(self) -> None:
        state = build_state(self.validators.genesis)
        self._chain = state.chain
        self._voters = get_validators(state)
        self._peers = [parse_node(node.node) for node in self.validators.network.nodes]
        self._mailbox = Mailbox(PrivateKey.from_seed(SEED), state.chain, 1)
        self._courier = Courier(self._mailbox, state.chain)
        self._in_flight: dict[bytes, Sent] = {}
        self._tip, self._tip_id, self._heard = 0, b"", 0  # no id: of the first block the parent is not known
        self._asked = False
        self._woken = trio.Event()
        self._net: Libp2pNet | None = None

    @property
    def in_flight(self) -> int:
        return len(self._in_flight)

    def publish(self, transfers: Iterable[bytes], due_s: Iterable[float] = ()) -> None:
        """Send transfers, as few messages as hold them. `due_s`: when each was due, if not now."""
        items = tuple(transfers)
        for data, its_due_s in zip(items, tuple(due_s) or repeat(time.monotonic()), strict=False):
            self._in_flight.setdefault(hashlib.sha256(data).digest(), Sent(data, its_due_s))
        for first in range(0, len(items), GOSSIP_LIST_MAX):
            message = Transactions(items[first : first + GOSSIP_LIST_MAX])
            sealed = self._courier.publish("txs", message, "", _now_ms())
            assert self._net is not None
            self._net.publish(sealed.topic, sealed.data, "")

    async def wait_until_below(self, count: int, timeout_s: float) -> bool:
        """Until fewer are under way; False when that takes too long."""
        with trio.move_on_after(timeout_s):
            while len(self._in_flight) >= count:
                self._woken = trio.Event()
                await self._woken.wait()
        return len(self._in_flight) < count

    # The network

    def on_event(self, event: NetEvent) -> None:
        match event:
            case Delivered(data=data, forwarder=peer):
                _, message = open_message(data, self._chain, GOSSIP_BYTES_MAX)
                if isinstance(message, Head):
                    self._heard = max(self._heard, message.header.height)
                    self._ask(peer)
            case Answered(token, data):
                self._asked = False
                peer = parse_token(token)[2]
                message = self._mailbox.open_from(peer, "sync", data)
                assert isinstance(message, Blocks)
                for item in message.items:
                    self._take(item)
                self._heard = max(self._heard, message.tip)
                self._ask(peer)
            case Unanswered():
                self._asked = False

    def check_head(self, topic: str, data: bytes, forwarder: bytes) -> Verdict:
        """Only what a quorum has signed is passed on."""
        try:
            _, message = open_message(data, self._chain, GOSSIP_BYTES_MAX)
            assert isinstance(message, Head)
            if message.header.height <= self._heard:
                return Verdict.IGNORE
            verify_decided(message.certificate, message.header, self._voters)
        except RemoteError:
            return Verdict.REJECT
        return Verdict.ACCEPT

    def _ask(self, peer: bytes) -> None:
        if self._asked or self._heard <= self._tip:
            return
        self._asked = True
        question = GetBlocks(self._tip + 1)
        asked = self._courier.request(peer, "sync", question, "sync", ASK_TIMEOUT_MS, _now_ms())
        assert self._net is not None
        self._net.request(peer, asked.protocol, asked.data, asked.token, ASK_TIMEOUT_MS)

    def _take(self, item: CertifiedBlock) -> None:
        """The next block, checked: decided, on the last one, with the transactions of its header."""
        header = item.block.header
        if header.height != self._tip + 1:
            return
        digests = tuple(hashlib.sha256(data).digest() for data in item.block.transactions)
        verify_decided(item.certificate, header, self._voters)
        if (self._tip and header.parent != self._tip_id) or compute_digests_root(digests) != header.transactions_root:
            raise InvalidCertificate(f"block {header.height} does not follow, or holds other transactions")
        self._tip, self._tip_id = header.height, compute_block_id(header)
        self.blocks += 1
        now_s = time.monotonic()
        for digest in digests:
            sent = self._in_flight.pop(digest, None)
            if sent is not None:
                self.final.append((now_s, now_s - sent.due_s))
        self._woken.set()

    async def join(self, net: Libp2pNet) -> None:
        """Connect with all validators, and hear of heads. Raises NotReady."""
        self._net = net
        for peer, node in zip(self._peers, self.validators.network.nodes, strict=True):
            net.learn(peer, node.addresses, (topic_name(self._chain, "txs"), topic_name(self._chain, "heads")))
        net.subscribe(topic_name(self._chain, "heads"), self.check_head)
        names = [topic_name(self._chain, name) for name in ("txs", "heads")]
        with trio.move_on_after(JOIN_S):
            while min(len(net.subscribers(name)) for name in names) < VALIDATORS:
                await trio.sleep(POLL_S / 10)
            return
        raise NotReady(f"the client is not connected with all validators after {JOIN_S:.0f} s")

    async def repeat(self) -> None:
        """Send again what gossip may have lost, and ask again for blocks, for ever."""
        repeated_s = -REPEAT_S
        while True:
            await trio.sleep(POLL_S)
            self._ask(self._peers[0])
            now_s = time.monotonic()
            if now_s - repeated_s < REPEAT_S:
                continue
            late = [sent for sent in self._in_flight.values() if now_s - sent.due_s > REPEAT_S][: 4 * GOSSIP_LIST_MAX]
            if late:
                self.publish(sent.data for sent in late)
                repeated_s = now_s


@asynccontextmanager
async def open_client(validators: Validators) -> AsyncIterator[Client]:
    """A client on the network of these validators."""
    client = Client(validators)
    options = NetOptions(limits=HostLimits(trusted=("127.0.0.0/8",)))
    async with (
        open_libp2p_net(SEED, validators.client_host, 0, client.on_event, options) as net,
        trio.open_nursery() as tasks,
    ):
        await client.join(net)
        tasks.start_soon(client.repeat)
        yield client
        tasks.cancel_scope.cancel()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
