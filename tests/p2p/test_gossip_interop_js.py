"""Our gossip beside js-libp2p's gossipsub: both signature policies, either side dialling, exact counts both ways."""

import base64
import hashlib
from contextlib import asynccontextmanager

import pytest
import trio

from p2p.gossipsub import Signature, TopicParams, compute_message_id
from p2p.libp2p_net import NetOptions, open_libp2p_net
from p2p.net import Delivered
from p2p.peer_ids import to_peer
from protocol.types import Verdict
from tests.p2p.js_peer import START_S, needs_js, open_js_peer

pytestmark = needs_js

TOPIC = "/rolemesh/00/claims/1"
SIZES = [1, 256, 4_096, 60_000]
MESSAGES = 24  # from each side; the least size has room for as many different ones
POLICIES = {"sign": Signature.STRICT_SIGN, "nosign": Signature.STRICT_NO_SIGN}
POLL_S = 0.01


def build_payloads(first):
    """Different messages of every size: a single byte differs by its value, so `first` keeps the two sides apart."""
    return [bytes([first + number]) + hashlib.sha256(b"%d" % number).digest() * 1_900 for number in range(MESSAGES)]


def cut(payloads):
    return [payload[: SIZES[number % len(SIZES)]] for number, payload in enumerate(payloads)]


OURS, THEIRS = cut(build_payloads(0)), cut(build_payloads(100))


def summarise(payloads):
    return sorted((len(data), hashlib.sha256(data).hexdigest()) for data in payloads)


async def until(predicate):
    with trio.fail_after(START_S):
        while not predicate():
            await trio.sleep(POLL_S)


async def fetch_delivered(js):
    return (await js.ask(delivered=TOPIC))["delivered"]


@asynccontextmanager
async def meshed(policy, who_dials, events):
    """Our net and a js node on the topic, each in the mesh of the other."""
    options = NetOptions(topics={TOPIC: TopicParams(signature=POLICIES[policy])})
    async with (
        open_js_peer(policy) as js,
        open_libp2p_net(bytes([8]) * 32, "127.0.0.1", 0, events.append, options) as net,
    ):
        ours = str(to_peer(net.node))
        net.subscribe(TOPIC, lambda *_: Verdict.ACCEPT)
        await js.ask(subscribe=TOPIC)
        if who_dials == "ours":
            net.learn(js.node, (js.address.split("/p2p/")[0],))
        else:
            await js.ask(dial=f"{net.addresses[0]}/p2p/{ours}")
        await until(lambda: net.subscribers(TOPIC) == (js.node,))
        await until(lambda: js.node in net._gossip.router.get_mesh(TOPIC))
        with trio.fail_after(START_S):
            while (await js.ask(mesh=TOPIC))["mesh"] != [ours]:
                await trio.sleep(POLL_S)
        yield net, js
        assert net.faults() == ()


@pytest.mark.parametrize("who_dials", ["ours", "js"])
@pytest.mark.parametrize("policy", list(POLICIES))
def test_both_publish_and_every_message_arrives_once(policy, who_dials):
    events, from_us = [], []

    def get_delivered():
        return [event.data for event in events if isinstance(event, Delivered)]

    async def main():
        async with meshed(policy, who_dials, events) as (net, js):
            for mine, other in zip(OURS, THEIRS, strict=True):
                net.publish(TOPIC, mine, "")
                sent = await js.ask(topic=TOPIC, publish=base64.b64encode(other).decode())
                assert sent == {"recipients": 1}
            await until(lambda: len(get_delivered()) >= MESSAGES)
            with trio.fail_after(START_S):
                while len(await fetch_delivered(js)) < MESSAGES:
                    await trio.sleep(POLL_S)
            # What would come twice has come by now: a last message each, behind everything else on its stream.
            net.publish(TOPIC, b"last of ours", "")
            await js.ask(topic=TOPIC, publish=base64.b64encode(b"last of theirs").decode())
            await until(lambda: b"last of theirs" in get_delivered())
            with trio.fail_after(START_S):
                while not any(found["size"] == len(b"last of ours") for found in await fetch_delivered(js)):
                    await trio.sleep(POLL_S)
            from_us.extend(await fetch_delivered(js))

    trio.run(main)
    assert summarise(get_delivered()) == summarise([*THEIRS, b"last of theirs"])
    assert sorted((found["size"], found["hash"]) for found in from_us) == summarise([*OURS, b"last of ours"])
    if policy == "nosign":
        ids = {compute_message_id(TOPIC, data) for data in [*OURS, b"last of ours"]}
        assert {base64.b64decode(found["id"] + "=") for found in from_us} == ids
