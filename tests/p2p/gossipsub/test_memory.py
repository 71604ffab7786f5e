"""Whatever arrives, and from however many ever-new peers: what a router holds stops growing, in named maps or not."""

import random

import pytest

from p2p.gossipsub import (
    GossipParams,
    Heartbeat,
    Judged,
    PeerDown,
    PeerUp,
    Publish,
    Received,
    Resumed,
    Router,
    ScoreParams,
    StreamEnded,
    Subscribe,
    Validate,
    lazy,
    mesh,
    messages,
    score,
)
from p2p.gossipsub.events import Continue
from p2p.gossipsub.wire import (
    Message,
    Prune,
    wrap_control,
    write_graft,
    write_idontwant,
    write_ihave,
    write_iwant,
    write_message,
    write_prune,
    write_subscription,
)
from protocol.types import Verdict

TOPIC = "/rolemesh/00/claims/1"
KEY = TOPIC.encode()
PEERS_MAX = 12
PARAMS = GossipParams(
    seen_max=200,
    cache_bytes_max=20_000,
    validations_max=16,
    validations_per_peer_max=4,
    topics_per_peer_max=8,
    slice_messages=8,
    peer_exchange=True,
    idontwant_bytes_min=10,
    idontwant_messages_max=3,
    score=ScoreParams(retain_ms=10**9),
)


@pytest.fixture(autouse=True)
def _small_bounds(monkeypatch):
    """The real ones are in the thousands: a test would not reach them."""
    monkeypatch.setattr(score, "RETAINED_MAX", 32)
    monkeypatch.setattr(mesh, "BACKOFFS_MAX", 32)
    monkeypatch.setattr(lazy, "PROMISES_MAX", 32)
    monkeypatch.setattr(messages, "RECENT_MAX", 64)


def count_held(root):
    """How many things an object holds, however deep: entries of containers, and bytes in sixties."""
    seen, total, left = {id(root)}, 0, [root]
    while left:
        held = left.pop()
        parts = []
        if isinstance(held, bytes | bytearray):
            total += len(held) // 60
        elif isinstance(held, dict):
            parts = [*held.keys(), *held.values()]
        elif hasattr(held, "__iter__") and not isinstance(held, str):
            parts = list(held)
        else:
            names = [*getattr(held, "__dict__", ()), *getattr(type(held), "__slots__", ())]
            parts = [getattr(held, name) for name in names if hasattr(held, name)]
        total += len(parts)
        for part in parts:
            if id(part) not in seen and not isinstance(part, int | float | type):
                seen.add(id(part))
                left.append(part)
    return total


class Strangers:
    """Peers that keep no rule, come with fresh keys and leave when there are too many."""

    def __init__(self, seed, judge):
        self.dice = random.Random(seed)
        self.router = Router(PARAMS, random.Random(seed))
        self.now_ms = 0
        self.connected = []
        self.tickets = []
        self.handle(Subscribe(TOPIC, judge))

    def handle(self, event):
        for effect in self.router.handle(event, self.now_ms):
            if isinstance(effect, Validate):
                self.tickets.append(effect.ticket)
            elif isinstance(effect, Continue):
                self.handle(Resumed(effect.peer))

    def act(self):
        dice = self.dice
        self.now_ms += dice.randrange(200)
        if dice.random() < 0.2 or not self.connected:
            self.connect()
        peer = dice.choice(self.connected)
        self.handle(Received(peer, self.make_packet()))
        if dice.random() < 0.1:
            self.handle(StreamEnded(peer))
        if dice.random() < 0.2:
            self.handle(Publish(dice.choice([TOPIC, "elsewhere"]), dice.randbytes(20)))
        while len(self.tickets) > 4:
            self.handle(Judged([(self.tickets.pop(), dice.choice(list(Verdict)))]))
        if dice.random() < 0.2:
            self.handle(Heartbeat())

    def connect(self):
        peer = self.dice.randbytes(32)
        self.connected.append(peer)
        self.handle(PeerUp(peer, self.dice.random() < 0.3, self.dice.choice(["", "one", str(self.now_ms)]), True))
        self.handle(Received(peer, write_subscription(True, KEY)))
        if len(self.connected) > PEERS_MAX:
            self.handle(PeerDown(self.connected.pop(self.dice.randrange(PEERS_MAX))))

    def make_packet(self):
        dice = self.dice
        ids = [dice.randbytes(20) for _ in range(dice.randrange(40))]
        return dice.choice(
            [
                dice.randbytes(40),
                write_subscription(True, dice.randbytes(8)),
                b"".join(write_message(Message(KEY, dice.randbytes(20))) for _ in range(dice.randrange(40))),
                write_message(Message(dice.randbytes(8), dice.randbytes(2_000))),
                wrap_control(write_ihave(KEY, ids)),
                wrap_control(write_ihave(dice.randbytes(8), ids)),
                wrap_control(write_iwant(ids) + write_idontwant(ids)),
                wrap_control(write_graft(KEY) + write_graft(dice.randbytes(8))),
                wrap_control(write_prune(Prune(KEY, dice.choice([0, 10**9]), ((dice.randbytes(38), b"r" * 99),)))),
            ]
        )


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("seed", [1])
def test_what_a_router_holds_stops_growing(seed, is_async):
    dice = random.Random(seed)
    judge = None if is_async else lambda topic, data, forwarder: dice.choice([*Verdict, None])
    strangers = Strangers(seed, judge)
    peaks = []
    for _ in range(6):
        held = []
        for step in range(500):
            strangers.act()
            if step % 50 == 0:
                held.append(count_held(strangers.router))
        peaks.append(max(held))

    # The first part fills what is bounded; after that a peak is as high as another, but for the lot.
    assert max(peaks[3:]) < 1.15 * max(peaks[1:3]), peaks


def test_as_many_messages_as_the_bound_says_are_remembered():
    router = Router(PARAMS, random.Random(1))
    router.handle(Subscribe(TOPIC, lambda topic, data, forwarder: Verdict.ACCEPT), 0)
    router.handle(PeerUp(b"p" * 32), 0)
    packets = [write_message(Message(KEY, b"%d" % number)) for number in range(PARAMS.seen_max)]
    for packet in packets:
        router.handle(Received(b"p" * 32, packet), 0)

    assert [router.handle(Received(b"p" * 32, packet), 0) for packet in packets] == [[]] * PARAMS.seen_max


@pytest.mark.parametrize("leaves", [False, True])
def test_no_named_map_outgrows_its_bound_between_two_heartbeats(leaves):
    dice = random.Random(3)
    router = Router(PARAMS, dice)
    router.handle(Subscribe(TOPIC, None), 0)
    for number in range(200):
        peer = dice.randbytes(32)
        router.handle(PeerUp(peer, group=str(number)), 0)
        told = wrap_control(write_ihave(KEY, [dice.randbytes(20)]))
        talk = [write_subscription(True, KEY), wrap_control(write_prune(Prune(KEY, 3_600))), told, told]
        for packet in [*talk, write_message(Message(KEY, b"%d" % number)), write_subscription(True, dice.randbytes(9))]:
            router.handle(Received(peer, packet), 0)
        if leaves:
            router.handle(PeerDown(peer), 0)

    sizes = router.get_sizes()
    bounds = {"promises": 32, "backoffs": 32, "waiting": PARAMS.validations_max, "seen": PARAMS.seen_max}
    assert {name: sizes[name] for name in bounds} == bounds | {"seen": PARAMS.validations_max}
    assert sizes["retained"] == sizes["groups"] == 32 if leaves else sizes["retained"] == 0


def test_strangers_that_leave_leave_nothing_behind_but_what_is_remembered_of_so_many():
    dice = random.Random(3)
    router = Router(PARAMS, dice)
    held = []
    for _ in range(300):
        peer = dice.randbytes(32)
        router.handle(PeerUp(peer), 0)
        for _ in range(PARAMS.topics_per_peer_max + 3):
            router.handle(Received(peer, write_subscription(True, dice.randbytes(9))), 0)
        assert router.get_sizes()["subscriptions"] <= PARAMS.topics_per_peer_max
        router.handle(PeerDown(peer), 0)
        held.append(count_held(router))

    assert held[-1] == held[100]
