"""A node without its sockets, disk and clock: what it does about whatever happens.

The core runs a node's roles (`role_desk`) and everything they share: envelopes, questions of peers, the ledger it
follows, the transactions of its account, the blobs it fetches, what it tells others about itself. Events in, effects
out; `roles.node` carries them under trio, `testnet.sim` in virtual time.
"""

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from p2p.net import Answered, Asked, Delivered, PeerConnected, PeerDisconnected, Reachable, Unanswered
from p2p.net import Published as NetPublished
from protocol.cid import Cid
from protocol.errors import InvalidTransaction, RemoteError
from protocol.ledger.block import get_validators
from protocol.ledger.genesis import Genesis, build_state
from protocol.ledger.restart_terms import Restart
from protocol.ledger.state import State, compute_state_root
from protocol.messages import Advert, Head, Missed, Status
from protocol.topics import parse_name, protocol_name, topic_name
from protocol.types import NodeState, Unproven, Verdict
from roles import core_effects as ce
from roles import role as seam
from roles.blob_fetcher import BlobFetcher
from roles.block_server import BlockServer
from roles.courier import Courier, Out, ToRoles, parse_token
from roles.file_gatherer import ROUTE as GATHER
from roles.file_gatherer import FileGatherer, Progress
from roles.follower import Follower
from roles.mailbox import Mailbox
from roles.orders import Orders
from roles.presence import Presence, list_topics
from roles.pull import Puller
from roles.questions import BLOCKS, OWN_PROTOCOLS, Questions
from roles.recent import Recent
from roles.role_desk import RoleDesk
from roles.store_effects import BlocksRead, Kept, LookedUp, Pinned, Proven
from roles.submitter import Submitter
from roles.wants import Wants

ADVERT_MS = 10_000
OWN_TOPICS = ("heads", "node")
ORDERS = -2  # who submits in place of a role: whoever runs the node
WANTS = -3  # who fetches in place of a role


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
        self.orders = Orders()
        self.wants = Wants()
        self.gathers = Wants()
        mailbox = self._mailbox = Mailbox(keys.node, settings.chain, restored.boot)
        courier = self._courier = Courier(mailbox, settings.chain)
        recent = self._recent = Recent()
        ledger = restored.state if restored.state is not None else build_state(genesis)
        follower = self._follower = Follower(ledger, restored.blocks, courier, rng, restored.restarts)
        # Whoever orders blocks alone has nobody to catch up with.
        follower.is_level = _decides_alone(follower.state, keys)
        follower.is_voter = keys.vote is not None
        listeners = tuple(place for place, role in enumerate(self.roles) if "txs" in role.topics)
        submitter = self._submitter = Submitter(keys.account, self._node, settings.chain, courier, listeners)
        fetcher = self._fetcher = BlobFetcher(self._node, courier, rng)
        gatherer = self._gatherer = FileGatherer(self._node, courier, rng)
        blocks = self._blocks = BlockServer(courier)
        topics = sorted({topic for role in self.roles for topic in role.topics})
        puller = self._puller = Puller(tuple(topics), mailbox, courier, rng)
        questions = Questions(self.roles, mailbox, courier, follower, recent, puller, blocks, self._get_status)
        self._questions = questions
        self._desk = RoleDesk(
            self.roles, self._node, courier, recent, follower, submitter, fetcher, gatherer, questions
        )
        self._presence = Presence(keys, self.roles, settings.must_be_reachable)
        self._presence.note_ledger(follower.state)

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

    def get_progress(self, cid: Cid) -> Progress | None:
        """Of a file or folder that is on its way into the store."""
        return self._gatherer.describe(cid)

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
                produced += self._tell(index, item.event)
            # What an event brings about comes before what was already waiting: causes stay in order.
            queue.extendleft(reversed(produced))
        return [*effects, *self._on_state_change()]

    def _tell(self, index: int, event: seam.Event) -> list[Out]:
        if index == ORDERS:
            self.orders.note(event)
        if index == WANTS:
            self.wants.note(event)
            self.gathers.note(event)
        return self._desk.tell(index, event, self.now_ms) if 0 <= index < len(self.roles) else []

    # What happened, to what is wanted

    def _react(self, event: ce.AnyEvent) -> list[Out]:
        match event:
            case Delivered(topic, data, forwarder):
                return self._on_delivered(topic, data, forwarder)
            case Asked():
                return self._questions.on_asked(event, self._shorten(event.protocol) or "", self.now_ms)
            case Answered(token, data):
                return self._on_answered(token, data)
            case Unanswered(token, reason):
                return self._on_unanswered(token, reason)
            case NetPublished(token, topic, peers):
                return self._desk.on_published(token, self._shorten(topic) or topic, peers)
            case ce.Woke(name):
                return self._on_woke(name)
            case seam.Computed():
                return self._desk.on_computed(event)
            case seam.Progressed():
                return self._desk.on_progressed(event)
            case seam.Inspected():
                return self._desk.on_inspected(event)
            case ce.Want(digest):
                return self._fetcher.fetch(digest, WANTS, is_local=False)
            case ce.GatherWanted(cid, peers, name, expires_ms):
                learnt = [ce.NetLearn(peer, addresses) for peer, addresses in peers if addresses]
                nodes = tuple(peer for peer, _ in peers)
                begun = self._gatherer.gather(cid, nodes, WANTS, name, expires_ms, self.ledger, self.now_ms)
                return [*learnt, *begun]
            case BlocksRead():
                return self._blocks.on_read(event)
            case LookedUp() | Kept() | Pinned():
                return self._gatherer.on_stored(event, self.now_ms)
            case Proven():
                return self._desk.on_proven(event)
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
                named = (index for index, each in enumerate(self.roles) if each.name == role)
                return [ToRoles(seam.Commanded(command), index) for index in named]
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
        protocols = sorted({*OWN_PROTOCOLS, BLOCKS, *(name for role in self.roles for name in role.protocols)})
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
                return [*self._desk.hand_out(seam.Received(sender, message, short)), *followed]
            case Advert():
                topics = tuple(topic_name(self.settings.chain, topic) for topic in list_topics(sender, message))
                return [ce.NetLearn(sender, message.addresses, topics)]
        return self._desk.hand_out(seam.Received(sender, message, short))

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
        if route.startswith(GATHER):
            return self._gatherer.on_answer(route, message, self.now_ms)
        if route.startswith("fetch:"):
            digest = bytes.fromhex(route.removeprefix("fetch:"))
            return self._fetcher.on_answer(digest, peer, message, self.ledger, self.now_ms)
        return self._desk.on_answer(route, peer, message)

    def _on_pulled(self, peer: bytes, message: Any) -> list[Out]:
        out, found = self._puller.on_answer(peer, message, self.ledger, self.now_ms)
        for pulled in found:
            self._recent.keep(pulled.message)
            out += self._desk.hand_out(seam.Received(pulled.sender, pulled.message, pulled.topic))
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
        if route.startswith(GATHER):
            return self._gatherer.on_unanswered(route, reason, self.now_ms)
        if route.startswith("fetch:"):
            digest = bytes.fromhex(route.removeprefix("fetch:"))
            return self._fetcher.on_unanswered(digest, self.ledger, self.now_ms)
        return self._desk.on_unanswered(route, peer, reason)

    def _on_woke(self, name: str) -> list[Out]:
        if name == "sync":
            return self._follower.on_timer(self._sorted_peers(), self.now_ms)
        if name == "apply":
            return self._follower.apply_held()
        if name == "pull":
            return self._puller.on_timer(self._follower.is_synced, self.now_ms)
        if name == "submit":
            validators = tuple(node.node for node in self.ledger.get_nodes("validator"))
            return self._submitter.on_timer(self.ledger, self._follower.is_synced, validators, self.now_ms)
        if name == "advert":
            return self._advertise()
        if name.startswith(GATHER):
            return self._gatherer.on_timer(name, self.now_ms)
        if name.startswith("fetch:"):
            digest = bytes.fromhex(name.removeprefix("fetch:"))
            return self._fetcher.on_timer(digest, self.ledger, self.now_ms)
        return self._desk.on_timer(name)

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
        if not (self._follower.is_synced and self._presence.is_ready):
            return []
        body = self._presence.get_update(self.ledger, self.now_ms)
        if body is None and self.settings.enrol:
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

    def _get_status(self) -> Status:
        names = tuple(role.name for role in self.roles)
        ledger = self.ledger
        return Status(names, str(self.state), ledger.height, compute_state_root(ledger), len(self._peers))

    def _shorten(self, name: str) -> str | None:
        try:
            return parse_name(self.settings.chain, name)
        except RemoteError:
            return None

    def _sorted_peers(self) -> tuple[bytes, ...]:
        return tuple(sorted(self._peers))


def _decides_alone(ledger: State, keys: ce.NodeKeys) -> bool:
    return keys.vote is not None and [item.vote for item in get_validators(ledger)] == [keys.vote.public]
