"""A node without its sockets, disk and clock: what it does about whatever happens.

The core runs a node's roles and everything they share: envelopes, the ledger it follows, the transactions of its
account, the blobs it fetches, what it tells others about itself. Events in, effects out; `roles.node` carries them
under trio, `testnet.sim` in virtual time.
"""

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from p2p.net import (
    GOSSIP_BYTES_MAX,
    Answered,
    Asked,
    Delivered,
    PeerConnected,
    PeerDisconnected,
    Reachable,
    Unanswered,
)
from p2p.net import Published as NetPublished
from protocol.content import parse_cid
from protocol.errors import InvalidTransaction, RemoteError
from protocol.ledger.block import get_validators
from protocol.ledger.genesis import Genesis, build_state
from protocol.ledger.restart_terms import Restart
from protocol.ledger.state import State, compute_state_root
from protocol.messages import (
    Advert,
    GetAttestations,
    GetBlocks,
    GetClaims,
    GetMissed,
    GetStatus,
    GetTransactions,
    Head,
    Missed,
    Refused,
    Status,
)
from protocol.topics import parse_name, protocol_name, topic_name
from protocol.types import NodeState, Unproven, Verdict
from roles import core_effects as ce
from roles import role as seam
from roles.blob_fetcher import BlobFetcher
from roles.courier import Courier, Out, ToRoles, is_bare, parse_token
from roles.follower import Follower
from roles.mailbox import Mailbox
from roles.orders import Orders
from roles.presence import Presence, list_topics
from roles.pull import Puller
from roles.recent import Recent
from roles.submitter import Submitter

ADVERT_MS = 10_000
URL_TIMEOUT_MS = 5_000
BARE_MARK = "bare:"  # on tokens of questions without an envelope, which are answered in kind
OWN_TOPICS = ("heads", "node")
ORDERS = -2  # who submits in place of a role: whoever runs the node
OWN_PROTOCOLS = ("sync", "status")


@dataclass(frozen=True)
class CoreSettings:
    """What sets one node apart. `bootstrap` are peers to dial first; `enrol` asks to bond and register our roles.

    With `must_be_reachable` a role that others have to find is neither registered nor said to serve before peers have
    dialled this node back.
    """

    chain: bytes
    bootstrap: tuple[tuple[bytes, tuple[str, ...]], ...] = ()
    enrol: bool = False
    must_be_reachable: bool = False


class NodeCore:
    """One node's decisions. Never waits; the same events in the same order give the same effects."""

    def __init__(
        self,
        settings: CoreSettings,
        keys: ce.NodeKeys,
        roles: Sequence[seam.Role],
        genesis: Genesis,
        restored: ce.Restored,
        rng: random.Random,
    ) -> None:
        self.settings = settings
        self.keys = keys
        self.roles = tuple(roles)
        self.state = NodeState.STARTING
        self.now_ms = 0
        self._restored = restored
        self._node = keys.node.public
        self._addresses: tuple[str, ...] = ()
        self._peers: set[bytes] = set()
        self._replies: dict[str, tuple[int, bytes, str]] = {}  # questions between roles of this node
        self._local_count = 0
        self._mailbox = Mailbox(keys.node, settings.chain, restored.boot)
        self._courier = Courier(self._mailbox, settings.chain)
        self._recent = Recent()
        ledger = restored.state if restored.state is not None else build_state(genesis)
        self._follower = Follower(ledger, restored.blocks, self._courier, rng, restored.restarts)
        ledger = self._follower.state
        # Whoever orders blocks alone has nobody to catch up with.
        self._follower.is_level = _decides_alone(ledger, keys)
        self._follower.is_patient = keys.vote is not None
        self._submitter = Submitter(keys.account, settings.chain, self._courier)
        self.orders = Orders()
        topics = sorted({topic for role in self.roles for topic in role.topics})
        self._puller = Puller(tuple(topics), self._mailbox, self._courier, rng)
        self._fetcher = BlobFetcher(self._node, self._courier, rng)
        self._presence = Presence(keys, self.roles, settings.must_be_reachable)
        self._presence.note_ledger(ledger)

    @property
    def ledger(self) -> State:
        return self._follower.state

    @property
    def is_synced(self) -> bool:
        """Whether some peer had nothing newer than our ledger."""
        return self._follower.is_synced

    @property
    def pending_restarts(self) -> tuple[State, tuple[Restart, ...]]:
        """The state after the last block, and the restarts loaded here that the ledger has still to go through."""
        return self._follower.decided, self._follower.pending

    @property
    def rotation(self) -> dict[str, str]:
        """What is to be said of other keys that the ledger names for this node; empty when it names ours."""
        return self._presence.describe_keys(self._follower.decided)

    @property
    def pending_transactions(self) -> int:
        """How many transactions of this node's account are not on the ledger yet."""
        return len(self._submitter)

    def check(self, topic: str, data: bytes, forwarder: bytes, now_ms: int) -> Verdict | Unproven:
        """The verdict gossip asks for before it forwards or delivers, or the signature it hangs on."""
        short = self._shorten(topic)
        if short is None:
            return Verdict.REJECT
        return self._mailbox.check(short, data, lambda: self.ledger, now_ms)

    def handle(self, event: ce.AnyEvent, now_ms: int) -> list[ce.CoreEffect]:
        self.now_ms = now_ms
        effects: list[ce.CoreEffect] = []
        queue: deque[Out] = deque(self._react(event))
        while queue:
            item = queue.popleft()
            if not isinstance(item, ToRoles):
                effects.append(item)
                if isinstance(item, ce.NetPublish):
                    self._puller.keep_own(self._shorten(item.topic) or "", item.data, now_ms)
                continue
            produced: list[Out] = []
            if isinstance(item.event, seam.LedgerAdvanced):
                produced += self._on_ledger(item.event)
            for index in range(len(self.roles)) if item.role is None else (item.role,):
                produced += self._run_role(index, item.event)
            # What an event brings about comes before what was already waiting: causes stay in order.
            queue.extendleft(reversed(produced))
        return [*effects, *self._on_state_change()]

    # What happened, to what is wanted

    def _react(self, event: ce.AnyEvent) -> list[Out]:
        match event:
            case Delivered(topic, data, forwarder):
                return self._on_delivered(topic, data, forwarder)
            case Asked():
                return self._on_asked(event)
            case Answered(token, data):
                return self._on_answered(token, data)
            case Unanswered(token, reason):
                return self._on_unanswered(token, reason)
            case NetPublished(token, topic, peers):
                index, own = _split(token)
                short = self._shorten(topic) or topic
                return [] if index is None else [ToRoles(seam.Published(short, own, peers), index)]
            case ce.Woke(name):
                return self._on_woke(name)
            case seam.Computed(token):
                index, own = _split(token)
                return [ToRoles(seam.Computed(own, event.outputs, event.profile, event.error), index)]
            case ce.BlobLoaded(digest, data):
                return self._fetcher.on_loaded(digest, data, self.ledger, self.now_ms)
            case ce.UrlFetched(url, data, error):
                return [ToRoles(seam.Fetched(url, data, error))]
            case PeerConnected(peer):
                self._peers.add(peer)
                return [*self._puller.note_up(peer, self.now_ms), ToRoles(seam.PeerUp(peer))]
            case PeerDisconnected(peer):
                self._peers.discard(peer)
                self._puller.note_down(peer)
                return [ToRoles(seam.PeerDown(peer))]
            case Reachable(is_reachable, advice):
                self._presence.note_reach(is_reachable)
                return [ce.Log("node.reach", {"is_reachable": is_reachable, "advice": advice})]
            case ce.Command(role, command):
                return [ToRoles(seam.Commanded(command), index) for index in self._named(role)]
            case ce.Order(token, body):
                return self._take_order(token, body)
            case ce.Boot(addresses):
                return self._boot(addresses)
            case ce.Stop():
                self.state = NodeState.DRAINING
                return [ToRoles(seam.Stopping())]

    def _boot(self, addresses: tuple[str, ...]) -> list[Out]:
        self._addresses = addresses
        self.state = NodeState.SYNCING
        chain = self.settings.chain
        topics = sorted({*OWN_TOPICS, *(topic for role in self.roles for topic in role.topics)})
        protocols = sorted({*OWN_PROTOCOLS, *(name for role in self.roles for name in role.protocols)})
        out: list[Out] = [ce.NetSubscribe(topic_name(chain, topic)) for topic in topics]
        out += [ce.NetServe(protocol_name(chain, name)) for name in protocols]
        out += [ce.NetLearn(peer, known) for peer, known in self.settings.bootstrap if peer != self._node]
        tip = self._restored.blocks(self.ledger.height) if self.ledger.height else None
        certificate = None if tip is None else tip.certificate
        for index, role in enumerate(self.roles):
            prefix = f"{role.name}/"
            kept = self._restored.kv.items()
            stored = {name.removeprefix(prefix): values for name, values in kept if name.startswith(prefix)}
            out.append(ToRoles(seam.Started(self.ledger, stored, self._restored.votes, certificate), index))
        out.append(self._courier.wake("advert", self.now_ms + 1_000))
        return [*out, *self._follower.start(self.now_ms), *self._puller.start(self.now_ms)]

    def _on_delivered(self, topic: str, data: bytes, forwarder: bytes) -> list[Out]:
        short = self._shorten(topic)
        opened = self._mailbox.take(short, data) if short is not None else None
        if short is None or opened is None:
            return []
        sender, message = opened.sender, opened.message
        self._recent.keep(message)
        self._puller.backlog.keep(short, data, opened, self.now_ms)
        match message:
            case Head():
                first = sender if sender in self._peers else forwarder
                followed = self._follower.on_head(first, message, self._sorted_peers(), self.now_ms)
                return [*self._to_roles(sender, message, short), *followed]
            case Advert():
                topics = tuple(topic_name(self.settings.chain, topic) for topic in list_topics(message))
                return [ce.NetLearn(sender, message.addresses, topics)]
        return self._to_roles(sender, message, short)

    def _to_roles(self, sender: bytes, message: Any, topic: str) -> list[Out]:
        return [ToRoles(seam.Received(sender, message, topic), index) for index in self._listening(topic)]

    def _on_asked(self, asked: Asked) -> list[Out]:
        short = self._shorten(asked.protocol)
        try:
            message = self._mailbox.open_from(asked.peer, short or "", asked.data)
        except RemoteError as error:
            reason = f"malformed request: {error}"
            return [ce.NetPenalise(asked.peer, reason), self._reply(short or "", asked.token, Refused(reason[:500]))]
        if short in OWN_PROTOCOLS:
            hint = self._get_hint(asked.peer, message)
            return [*hint, self._courier.reply(asked.token, self._answer(asked.peer, message), self.now_ms)]
        for index, role in enumerate(self.roles):
            if short in role.protocols:
                token = BARE_MARK + asked.token if is_bare(short or "") else asked.token
                return [ToRoles(seam.Requested(asked.peer, message, short or "", token), index)]
        return [self._reply(short or "", asked.token, Refused("this node does not serve that"))]

    def _reply(self, protocol: str, token: str, message: Any) -> Out:
        if is_bare(protocol):
            return self._courier.reply_bare(token, message)
        return self._courier.reply(token, message, self.now_ms)

    def _get_hint(self, peer: bytes, message: Any) -> list[Out]:
        """Whoever asks a verifier about a claim it has not heard of has that claim."""
        is_news = isinstance(message, GetAttestations) and not self._recent.knows_claims(message.claim_ids)
        return self._puller.hint(peer, self.now_ms) if is_news and self._listening("claims") else []

    def _answer(self, peer: bytes, message: Any) -> Any:
        match message:
            case GetBlocks():
                return self._follower.get_blocks(message)
            case GetClaims(ids):
                return self._recent.get_claims(ids)
            case GetAttestations(ids):
                return self._recent.get_attestations(ids)
            case GetTransactions(ids):
                return self._recent.get_transactions(ids)
            case GetMissed():
                return self._puller.answer(peer, message, self.ledger.height, self.now_ms)
            case GetStatus():
                names = tuple(role.name for role in self.roles)
                ledger = self.ledger
                return Status(names, str(self.state), ledger.height, compute_state_root(ledger), len(self._peers))
        return Refused(f"{type(message).__name__} is no question")

    def _on_answered(self, token: str, data: bytes) -> list[Out]:
        route, protocol, peer = parse_token(token)
        try:
            message = self._mailbox.open_from(peer, protocol, data)
        except RemoteError as error:
            return [ce.NetPenalise(peer, f"malformed answer: {error}"), *self._on_unanswered(token, str(error))]
        if route == "sync":
            return self._follower.on_answer(peer, message, self._sorted_peers(), self.now_ms)
        if route == "pull":
            return self._on_pulled(peer, message)
        if route == "submit":
            return self._submitter.on_answer(message, self.ledger, self.now_ms)
        if route.startswith("fetch:"):
            digest = bytes.fromhex(route.removeprefix("fetch:"))
            return self._fetcher.on_answer(digest, peer, message, self.ledger, self.now_ms)
        self._recent.keep(message)
        index, own = _split(route)
        return [ToRoles(seam.Received(peer, message, token=own), index)]

    def _on_pulled(self, peer: bytes, message: Any) -> list[Out]:
        out, found = self._puller.on_answer(peer, message, self.ledger, self.now_ms)
        for pulled in found:
            self._recent.keep(pulled.message)
            received = seam.Received(pulled.sender, pulled.message, pulled.topic)
            out += [ToRoles(received, index) for index in self._listening(pulled.topic)]
        if isinstance(message, Missed) and message.tip > self.ledger.height:
            out += [*self._follower.on_tip(peer, message.tip, self.now_ms), *self._puller.on_news(self.now_ms)]
        return out

    def _on_unanswered(self, token: str, reason: str) -> list[Out]:
        route, _, peer = parse_token(token)
        if route == "sync":
            return self._follower.on_unanswered(self._sorted_peers(), self.now_ms)
        if route == "pull":
            return self._puller.on_unanswered()
        if route == "submit":
            return self._submitter.on_unanswered()
        if route.startswith("fetch:"):
            digest = bytes.fromhex(route.removeprefix("fetch:"))
            return self._fetcher.on_unanswered(digest, self.ledger, self.now_ms)
        index, own = _split(route)
        return [ToRoles(seam.RequestFailed(peer, own, reason), index)]

    def _on_woke(self, name: str) -> list[Out]:
        if name == "sync":
            return self._follower.on_timer(self._sorted_peers(), self.now_ms)
        if name == "apply":
            return self._follower.apply_held()
        if name == "pull":
            return self._puller.on_timer(self._follower.is_synced, self.now_ms)
        if name == "submit":
            validators = tuple(node.node for node in self.ledger.get_nodes("validator"))
            return self._submitter.on_timer(self.ledger, validators, self.now_ms)
        if name == "advert":
            return self._advertise()
        if name.startswith("fetch:"):
            digest = bytes.fromhex(name.removeprefix("fetch:"))
            return self._fetcher.on_timer(digest, self.ledger, self.now_ms)
        index, own = _split(name)
        return [] if index is None else [ToRoles(seam.TimerFired(own), index)]

    def _on_ledger(self, advanced: seam.LedgerAdvanced) -> list[Out]:
        for transaction in advanced.transactions:
            self._recent.keep_transaction(transaction)
        settled = self._submitter.on_ledger(advanced.state, advanced.transactions, self.now_ms)
        if self._presence.note_ledger(advanced.state):
            # Our next process takes the new keys up.
            height = advanced.state.height + 1
            settled.append(ce.Restart(f"the ledger names other keys of this node from height {height} on"))
        return settled

    def _take_order(self, token: str, body: Any) -> list[Out]:
        if not self.orders.open(token):
            return []
        try:
            self._submitter.verify(body, self.ledger, self.now_ms)
        except InvalidTransaction as error:
            self.orders.refuse(token, error)
            return []
        return self._submitter.submit(body, ORDERS, token, self.ledger, self.now_ms)

    def _advertise(self) -> list[Out]:
        advert = self._presence.make_advert(self.state, self._addresses, self.ledger.height)
        again = self._courier.wake("advert", self.now_ms + ADVERT_MS)
        return [self._courier.publish("node", advert, "", self.now_ms), again, *self._enrol()]

    def _enrol(self) -> list[Out]:
        if not (self.settings.enrol and self._follower.is_synced and self._presence.is_ready):
            return []
        body = self._presence.get_registration(self.ledger, self.now_ms)
        return [] if body is None else self._submitter.submit(body, -1, "enrol", self.ledger, self.now_ms)

    def _on_state_change(self) -> list[ce.CoreEffect]:
        if self.state in (NodeState.STARTING, NodeState.DRAINING):
            return []
        state = self._presence.compute_state(self.ledger, self._follower.is_synced)
        if state is self.state:
            return []
        self.state = state
        return [
            ce.Log("node.state", {"state": str(state)}),
            ce.Wake("advert", self.now_ms),
        ]

    # What a role wants, to effects

    def _run_role(self, index: int, event: seam.Event) -> list[Out]:
        if index == ORDERS:
            self.orders.note(event)
        if not 0 <= index < len(self.roles):
            return []
        return [out for effect in self.roles[index].handle(event, self.now_ms) for out in self._carry(index, effect)]

    def _carry(self, index: int, effect: seam.Effect) -> list[Out]:
        now_ms = self.now_ms
        match effect:
            case seam.Publish(topic, message, token):
                return self._publish(index, topic, message, token)
            case seam.Send(peer, protocol, message, "") if peer != self._node:
                return [self._courier.tell(peer, protocol, message, now_ms)]
            case seam.Send(peer, protocol, message, token, timeout_ms):
                return self._ask(index, peer, protocol, message, token, timeout_ms)
            case seam.Request(peer, protocol, message, token, timeout_ms):
                return self._ask(index, peer, protocol, message, token, timeout_ms)
            case seam.Reply(token, message):
                if token in self._replies:
                    asker, peer, asked = self._replies.pop(token)
                    return [ToRoles(seam.Received(peer, message, token=asked), asker)]
                if token.startswith(BARE_MARK):
                    return [self._courier.reply_bare(token.removeprefix(BARE_MARK), message)]
                return [self._courier.reply(token, message, now_ms)]
            case seam.Compute(token, model, inputs, deadline_ms):
                return [ce.Compute(_join(index, token), model, inputs, deadline_ms)]
            case seam.Fetch(source, local):
                if source.startswith(("http://", "https://")):
                    return [ce.FetchUrl(source, URL_TIMEOUT_MS)]
                return self._fetcher.fetch(parse_cid(source), index, local)
            case seam.Store("blob", key, value):
                return [] if value is None else [ce.PutBlob(key, value)]
            case seam.Store("receipt", key, value):
                return [ce.Put("receipt", key, value)]
            case seam.Store(bucket, key, value):
                return [ce.Put(f"{self.roles[index].name}/{bucket}", key, value)]
            case seam.Submit(seam.Decided() as decided):
                return self._follower.adopt(decided)
            case seam.LogVote(record):
                return [ce.LogVote(record)]
            case seam.CatchUp(peer, height):
                return self._follower.on_tip(peer, height, now_ms)
            case seam.Halt(reason):
                return [ce.Halt(reason)]
            case seam.Submit(body, token):
                return self._submitter.submit(body, index, token, self.ledger, now_ms)
            case seam.SetTimer(name, at_ms):
                return [self._courier.wake(_join(index, name), at_ms)]
            case seam.Penalise(peer, reason):
                return [ce.NetPenalise(peer, reason)]
            case seam.Deliver(outcome):
                return [ce.Deliver(self.roles[index].name, outcome)]
            case seam.Record(name, fields):
                return [ce.Log(name, fields)]

    def _publish(self, index: int, topic: str, message: Any, token: str) -> list[Out]:
        sealed = self._courier.publish(topic, message, _join(index, token), self.now_ms)
        if len(sealed.data) > GOSSIP_BYTES_MAX:
            # A role's mistake costs it the message; the network would take it for a bug of the node.
            fields = {"topic": topic, "bytes": len(sealed.data), "bytes_max": GOSSIP_BYTES_MAX}
            return [ce.Log("message.too_large", fields), ToRoles(seam.Published(topic, token, 0), index)]
        self._recent.keep(message)
        own = seam.Received(self._node, message, topic)
        return [sealed, *(ToRoles(own, other) for other in self._listening(topic) if other != index)]

    def _ask(self, index: int, peer: bytes, protocol: str, message: Any, token: str, timeout_ms: int) -> list[Out]:
        if peer != self._node:
            route = _join(index, token)
            return [self._courier.request(peer, protocol, message, route, timeout_ms, self.now_ms)]
        for other, role in enumerate(self.roles):
            if protocol in role.protocols:
                self._local_count += 1
                local = f"local-{self._local_count}"
                self._replies[local] = (index, peer, token)
                return [ToRoles(seam.Requested(peer, message, protocol, local), other)]
        if protocol in OWN_PROTOCOLS:
            return [ToRoles(seam.Received(peer, self._answer(peer, message), token=token), index)]
        return [ToRoles(seam.RequestFailed(peer, token, "this node does not serve that"), index)]

    def _listening(self, topic: str) -> list[int]:
        return [index for index, role in enumerate(self.roles) if topic in role.topics]

    def _named(self, name: str) -> list[int]:
        return [index for index, role in enumerate(self.roles) if role.name == name]

    def _shorten(self, name: str) -> str | None:
        try:
            return parse_name(self.settings.chain, name)
        except RemoteError:
            return None

    def _sorted_peers(self) -> tuple[bytes, ...]:
        return tuple(sorted(self._peers))


def _decides_alone(ledger: State, keys: ce.NodeKeys) -> bool:
    return keys.vote is not None and [item.vote for item in get_validators(ledger)] == [keys.vote.public]


def _join(index: int, token: str) -> str:
    return f"{index}:{token}"


def _split(token: str) -> tuple[int | None, str]:
    head, separator, own = token.partition(":")
    return (int(head), own) if separator and head.isdecimal() else (None, token)
