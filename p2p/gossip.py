"""Gossip on real streams: the pure router of `p2p.gossipsub`, the peers' streams, and a clock.

What peers send is gathered as it arrives and handed to the router once per turn of the loop, peer by peer and for a
bounded time (`p2p.incoming`); what the router wants sent waits in bounded queues, most urgent first, and leaves at the
end of the turn as few packets and one write per connection (`p2p.outgoing`). Whatever a peer sends costs it a penalty
or its stream, never more. On the wire this is `/meshsub/1.1.0`; our own topics are StrictNoSign: the envelopes sign.
"""

import logging
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import trio
from libp2p.network.stream.net_stream import NetStream

from p2p.gossip_params import PARAMS, build_topic_params, get_priority, is_urgent
from p2p.gossipsub import (
    Author,
    Blamed,
    Continue,
    Deliver,
    Dial,
    Effect,
    Event,
    Fault,
    GossipParams,
    Heartbeat,
    Judge,
    PeerDown,
    PeerUp,
    Publish,
    Rated,
    Recorded,
    ResetStream,
    Router,
    Seek,
    SendControl,
    SendMessage,
    SendSubscriptions,
    StreamRenewed,
    Subscribe,
    TopicCounts,
    TopicParams,
    Unsubscribe,
    Validate,
    compute_message_id,
)
from p2p.incoming import Incoming
from p2p.net import GOSSIP_BYTES_MAX, Check
from p2p.outgoing import Outgoing
from p2p.signature_checks import SignatureChecks
from p2p.signature_process import SignatureProcess
from p2p.slow_checks import SlowCheck, SlowChecks
from p2p.turns import Turns
from protocol.errors import LocalError
from protocol.types import Unproven, Verdict

logger = logging.getLogger(__name__)

MESHSUB = "/meshsub/1.1.0"


class Gossip:
    """One node's topics. `work` and `flush` are to be called in each of its `turns`.

    `describe` says of a connected peer whether we dialled it and what P6 counts it by.
    """

    def __init__(
        self,
        open_stream: Callable[[bytes, str], Awaitable[NetStream]],
        deliver: Callable[[str, bytes, bytes], bool],
        fault: Callable[[bytes, str], None],
        is_refused: Callable[[bytes], bool],
        dice: random.Random,
        turns: Turns,
        *,
        has_room: Callable[[], bool] = lambda: True,
        describe: Callable[[bytes], tuple[bool, str]] = lambda node: (False, ""),
        dial: Callable[[bytes, bytes], None] = lambda node, record: None,
        seek: Callable[[], None] = lambda: None,
        direct: Iterable[bytes] = (),
        author: Author | None = None,
        topics: Mapping[str, TopicParams] | None = None,
        params: GossipParams = PARAMS,
    ) -> None:
        self.router = Router(params, dice, author, direct)
        self.counts = self.router.get_counts()
        self._params = params
        self._topics = dict(topics or {})
        self._deliver = deliver
        self._fault = fault
        self._has_room = has_room
        self._describe = describe
        self._dial = dial
        self._seek = seek
        self._slow = SlowChecks(self._do, self._note_check_error, params.validation_ms_max / 1_000)
        self._signatures = SignatureChecks(self._do, self._note_check_error, is_urgent)
        self._verifier = SignatureProcess(turns.hurry, self._signatures.take_back)
        self._signatures.helper = self._verifier
        self._incoming = Incoming(self._do, fault, is_refused, has_room, self._signatures, turns)
        self._outgoing = Outgoing(
            lambda node: open_stream(node, MESHSUB), lambda node: self._do(StreamRenewed(node)), turns, self.counts
        )
        self.take_stream = self._incoming.take_stream
        self.work = self._incoming.work
        self.flush = self._outgoing.flush
        self._handlers: dict[type, Callable[[Any], object]] = {
            SendMessage: self._outgoing.send,
            SendControl: self._outgoing.send_control,
            SendSubscriptions: self._outgoing.send_subscriptions,
            Deliver: self._hand_over,
            Validate: self._validate,
            Fault: lambda effect: self._fault(effect.peer, effect.reason),
            ResetStream: lambda effect: self._incoming.end_stream(effect.peer),
            Dial: lambda effect: self._dial(effect.peer, effect.record),
            Seek: lambda effect: self._seek(),
        }

    # The application's side

    def subscribe(self, topic: str, check: Check) -> None:
        self._slow.by_topic.pop(topic, None)
        self._do(Subscribe(topic, self._guard(check), self._get_params(topic)))

    def subscribe_slowly(self, topic: str, check: SlowCheck) -> None:
        """As `subscribe`, for a check that has to wait for something; the router bounds how many are under way."""
        self._slow.by_topic[topic] = check
        self._do(Subscribe(topic, None, self._get_params(topic)))

    def unsubscribe(self, topic: str) -> None:
        self._slow.by_topic.pop(topic, None)
        self._do(Unsubscribe(topic))

    def publish(self, topic: str, data: bytes) -> int:
        """Queue for peers on the topic; how many. LocalError when it is too large: the caller's mistake."""
        if len(data) > GOSSIP_BYTES_MAX:
            raise LocalError(f"a gossip message has {len(data)} bytes, at most {GOSSIP_BYTES_MAX}")
        sent = 0
        for effect in self.router.handle(Publish(topic, data, self._get_params(topic)), _now_ms()):
            if type(effect) is SendMessage:
                sent += self._outgoing.send(effect)
        return sent

    def subscribers(self, topic: str) -> tuple[bytes, ...]:
        """Node keys of connected peers on the topic, sorted."""
        return self.router.get_subscribers(topic)

    def blame(self, node: bytes) -> None:
        """The application saw a peer break a rule."""
        self._do(Blamed(node))

    def rate(self, node: bytes, score: float) -> None:
        """What the application thinks of a peer, P5."""
        self._do(Rated(node, score))

    def note_record(self, node: bytes, record: bytes) -> None:
        """A peer's verified record, to tell others of it."""
        self._do(Recorded(node, record))

    def get_sizes(self) -> dict[str, int]:
        """How much is remembered, by name: the router's and this shell's own."""
        return {
            **self.router.get_sizes(),
            **self._outgoing.get_sizes(),
            "inbound": len(self._incoming),
            "topics": len(self._topics),
            "to_validate": len(self._slow),
            "to_verify": len(self._signatures),
        }

    def _get_params(self, topic: str) -> TopicParams:
        found = self._topics.get(topic)
        if found is None:
            found = build_topic_params(topic)
            if self.router.is_subscribed(topic) or len(self._topics) < self._params.topics_max:
                self._topics[topic] = found
        return found

    def _guard(self, check: Check) -> Judge:
        def judge(topic: str, data: bytes, forwarder: bytes) -> Verdict | Unproven | None:
            if not self._has_room():
                return None
            try:
                return check(topic, data, forwarder)
            except Exception:  # a bug of ours that this message brought out: the message is lost, the node is not
                self._note_check_error(topic)
                logger.exception("the check of %s failed", topic)
                return Verdict.IGNORE

        return judge

    def _note_check_error(self, topic: str) -> None:
        self.counts[topic].check_errors += 1

    # Doing what the router wants

    def _do(self, event: Event) -> list[Effect]:
        effects = self.router.handle(event, _now_ms())
        handlers = self._handlers
        for effect in effects:
            if type(effect) is not Continue:
                handlers[type(effect)](effect)
        return effects

    def _hand_over(self, effect: Deliver) -> None:
        if not self._deliver(effect.topic, effect.data, effect.forwarder):
            self.counts[effect.topic].dropped += 1

    def _validate(self, effect: Validate) -> None:
        (self._slow if effect.unproven is None else self._signatures).queue(effect)

    @property
    def has_work(self) -> bool:
        """Whether anything waits for `work` or `flush`."""
        return self._incoming.has_work or self._outgoing.has_work

    # What runs

    async def keep_mesh(self) -> None:
        """Beat and see to slow verdicts, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._slow.run)
            nursery.start_soon(self._verifier.run)
            next_beat = trio.current_time()
            while True:
                next_beat = max(next_beat + self._params.heartbeat_ms / 1_000, trio.current_time())
                await trio.sleep_until(next_beat)
                self._do(Heartbeat())
                self._outgoing.reset_stuck()
                self._incoming.note_beat()

    def meet(self, node: bytes) -> Callable[[], Awaitable[None]]:
        """A peer is connected: what to run for it, until `drop`."""
        run = self._outgoing.begin(node)
        is_outbound, group = self._describe(node)
        self._do(PeerUp(node, is_outbound, group))
        return run

    def drop(self, node: bytes) -> None:
        """The peer is gone: stop feeding it and forget what it was on."""
        self._incoming.end(node)
        self._outgoing.end(node)
        self._do(PeerDown(node))


def _now_ms() -> int:
    return int(trio.current_time() * 1_000)


__all__ = ["MESHSUB", "PARAMS", "Gossip", "TopicCounts", "compute_message_id", "get_priority"]
