"""Strangers on the gossip stream."""

import itertools
import os
import struct
from collections.abc import Iterable, Iterator

import trio

from p2p.gossip import MESHSUB
from p2p.gossipsub.signing import ED25519_HEAD, compute_message_id
from p2p.gossipsub.wire import (
    Message,
    Prune,
    write_graft,
    write_ihave,
    write_iwant,
    write_message,
    write_plain,
    write_prune,
    write_subscription,
)
from p2p.protobuf import write_bytes, write_varint
from tests.p2p.attacks import scene
from tests.p2p.attacks.scene import Aim
from tests.p2p.attacks.stranger import (
    JOIN,
    NOISE,
    NUMBERS,
    PAUSE_S,
    SIGNATURE,
    SIGNED_TOPIC,
    TOPIC,
    being,
    control,
    frame,
    pester,
    read_all,
)


async def gossip(aim: Aim, writes: Iterable[bytes], pause_s: float = PAUSE_S) -> None:
    """Join the topics, send these packets, and stay."""
    async with being(aim) as host:
        await pester(host, aim, MESHSUB, itertools.chain([JOIN], writes), pause_s)
        await trio.sleep_forever()


async def junk_packets(aim: Aim) -> None:
    await gossip(aim, itertools.repeat(frame(b"\xff\xff\xff\xff\xff")))


async def junk_keys(aim: Aim) -> None:
    """A2 and A3: authors whose key is none, is too short, or belongs to someone else."""
    hashed = Message(SIGNED_TOPIC, b"x", b"\x12\x20" + bytes(32), bytes(8), SIGNATURE, b"junk")
    short = Message(SIGNED_TOPIC, b"x", bytes(38), bytes(8), SIGNATURE, b"\x08\x01\x12\x03abc")
    other = Message(SIGNED_TOPIC, b"x", ED25519_HEAD + bytes(32), bytes(8), SIGNATURE, b"\x08\x01\x12\x20" + bytes(32))
    on_unsigned = Message(TOPIC, b"x", ED25519_HEAD + bytes(32), bytes(8), SIGNATURE, b"junk")
    packets = [frame(write_message(message)) for message in (hashed, short, other, on_unsigned)]
    await gossip(aim, itertools.cycle(packets))


async def bad_signatures(aim: Aim) -> None:
    """A4: five thousand in one packet, from as many authors. One packet, no more."""
    messages = [
        Message(SIGNED_TOPIC, b"x" * 16, ED25519_HEAD + struct.pack("!I28x", i), struct.pack("!Q", i), SIGNATURE)
        for i in range(5_000)
    ]
    await gossip(aim, [frame(b"".join(map(write_message, messages)))])


async def bad_envelopes(aim: Aim) -> None:
    """As above on a topic of ours: the envelope's signature is junk."""
    whole = [scene.write_honest(bytes([i % 250]) * 32, i) for i in range(1_000)]
    field = write_bytes(4, TOPIC)
    await gossip(aim, [frame(b"".join([write_plain(data[:-1] + b"?", field) for data in whole]))])


async def repeated_iwant(aim: Aim) -> None:
    """A5: one large message asked for eight thousand times in one packet, again and again."""
    data = scene.write_honest(bytes([7]) * 32, 0, 60_000)
    wish = control(write_iwant([compute_message_id(scene.TOPIC, data)] * 8_000))
    say = frame(write_plain(data, write_bytes(4, TOPIC)))
    async with being(aim, serves=read_all) as host:
        await pester(host, aim, MESHSUB, itertools.chain([JOIN, say], itertools.repeat(wish)))


async def long_ihave(aim: Aim) -> None:
    """A6: twenty thousand unknown ids in one packet. One packet, no more."""
    await gossip(aim, [control(write_ihave(TOPIC, [struct.pack("!Q12x", i) for i in range(20_000)]))])


async def broken_promises(aim: Aim) -> None:
    """Advertisements no longer than allowed, of messages that never come."""
    await gossip(aim, (control(write_ihave(TOPIC, [os.urandom(20)])) for _ in itertools.count()))


async def empty_control(aim: Aim) -> None:
    """As many of the smallest fields as a packet has room for, where ids are expected: work without an effect."""
    body = write_bytes(1, write_bytes(1, TOPIC) + b"\x1a\x00" * 5_000)
    await gossip(aim, itertools.repeat(control(*[body] * 100)))


async def grafts_in_backoff(aim: Aim) -> None:
    await gossip(
        aim, itertools.chain([control(write_prune(Prune(TOPIC, 60)))], itertools.repeat(control(write_graft(TOPIC))))
    )


async def subscriptions(aim: Aim) -> None:
    """Three thousand topics nobody knows in one packet, then on and off one that we are on."""
    names = b"".join(write_subscription(True, b"flood %d" % i) for i in range(3_000))
    churn = (write_subscription(True, TOPIC) + write_subscription(False, TOPIC)) * 500
    await gossip(aim, itertools.chain([frame(names)], itertools.repeat(frame(churn))))


async def oversized_frames(aim: Aim) -> None:
    await gossip(aim, itertools.repeat(write_varint(2**27) + NOISE))


async def endless_lengths(aim: Aim) -> None:
    await gossip(aim, itertools.repeat(b"\xff" * 4_096))


async def forged_copies(aim: Aim) -> None:
    """What the honest peer is about to say, with a junk signature, before it says it: by many, a few each."""

    first, first_signed = aim.details["first"], aim.details["first_signed"]

    def forge(number: int) -> Iterator[bytes]:
        field = write_bytes(4, TOPIC)
        for i in itertools.count(number, NUMBERS):
            data = scene.write_honest(scene.HONEST_SEED, first + i)
            yield frame(write_plain(data[:-1] + bytes([data[-1] ^ 1]), field))
            seqno = struct.pack("!Q", aim.honest_seqno + first_signed + 1 + i)
            data = scene.write_honest(scene.HONEST_SEED, first_signed + i)
            yield frame(write_message(Message(SIGNED_TOPIC, data, scene.HONEST_AUTHOR, seqno, SIGNATURE)))

    async def race(number: int) -> None:
        async with being(aim, number + 1) as host:
            await pester(host, aim, MESHSUB, itertools.chain([JOIN], forge(number)), 0.05)

    async with trio.open_nursery() as nursery:
        for number in range(NUMBERS):
            nursery.start_soon(race, number)
