"""Where a node's roles hear what has happened, and where what they want becomes what the node does.

On one side is the seam of `roles.role`, on the other that of `roles.core_effects`. A role knows of no envelopes, disks
or neighbours: what it says is sealed here, its number stands before its tokens and timers, its name before what it
stores, and what a part of the node does for all roles is handed to that part.
"""

from dataclasses import replace
from typing import Any

from p2p.net import GOSSIP_BYTES_MAX
from protocol.cid import read_cid
from protocol.content import parse_cid
from roles import core_effects as ce
from roles import role as seam
from roles import store_effects as se
from roles.blob_fetcher import BlobFetcher
from roles.courier import Courier, Out, ToRoles
from roles.file_gatherer import FileGatherer
from roles.follower import Follower
from roles.questions import Questions
from roles.recent import Recent
from roles.sources import SCHEMES
from roles.submitter import Submitter

URL_TIMEOUT_MS = 5_000


class RoleDesk:
    """Roles go by number: their place in `roles`."""

    def __init__(
        self,
        roles: tuple[seam.Role, ...],
        node: bytes,
        courier: Courier,
        recent: Recent,
        follower: Follower,
        submitter: Submitter,
        fetcher: BlobFetcher,
        gatherer: FileGatherer,
        questions: Questions,
    ) -> None:
        self._roles = roles
        self._node = node
        self._courier = courier
        self._recent = recent
        self._follower = follower
        self._submitter = submitter
        self._fetcher = fetcher
        self._gatherer = gatherer
        self._questions = questions

    def tell(self, index: int, event: seam.Event, now_ms: int) -> list[Out]:
        """One role hears of an event: what comes of all that it wants."""
        effects = self._roles[index].handle(event, now_ms)
        return [out for effect in effects for out in self._carry_out(index, effect, now_ms)]

    # What has happened, to roles

    def hand_out(self, received: seam.Received, but: int | None = None) -> list[Out]:
        """A message of a topic, to all roles that listen to it."""
        listening = (index for index, role in enumerate(self._roles) if received.topic in role.topics)
        return [ToRoles(received, index) for index in listening if index != but]

    def on_published(self, token: str, topic: str, peers: int) -> list[Out]:
        index, own = _split(token)
        return [] if index is None else [ToRoles(seam.Published(topic, own, peers), index)]

    def on_computed(self, event: seam.Computed) -> list[Out]:
        index, own = _split(event.token)
        return [ToRoles(seam.Computed(own, event.outputs, event.profile, event.error), index)]

    def on_progressed(self, event: seam.Progressed) -> list[Out]:
        index, own = _split(event.token)
        return [ToRoles(seam.Progressed(own, event.tokens, event.steps), index)]

    def on_inspected(self, event: seam.Inspected) -> list[Out]:
        index, own = _split(event.token)
        return [ToRoles(seam.Inspected(own, event.answer, event.error), index)]

    def on_proven(self, event: se.Proven) -> list[Out]:
        index, own = _split(event.token)
        return [ToRoles(replace(event, token=own), index)]

    def on_timer(self, name: str) -> list[Out]:
        index, own = _split(name)
        return [] if index is None else [ToRoles(seam.TimerFired(own), index)]

    def on_answer(self, route: str, peer: bytes, message: Any) -> list[Out]:
        self._recent.keep(message)
        index, own = _split(route)
        return [ToRoles(seam.Received(peer, message, token=own), index)]

    def on_unanswered(self, route: str, peer: bytes, reason: str) -> list[Out]:
        index, own = _split(route)
        return [ToRoles(seam.RequestFailed(peer, own, reason), index)]

    # What a role wants, to effects

    def _carry_out(self, index: int, effect: seam.Effect, now_ms: int) -> list[Out]:
        match effect:
            # The most frequent first: a case is a question.
            case seam.Record(name, fields):
                return [ce.Log(name, fields)]
            case seam.Store("blob", key, value):
                return [] if value is None else [ce.PutBlob(key, value)]
            case seam.Store("receipt", key, value):
                return [ce.Put("receipt", key, value)]
            case seam.Store(bucket, key, value):
                return [ce.Put(f"{self._roles[index].name}/{bucket}", key, value)]
            case seam.Publish():
                return self._publish(index, effect, now_ms)
            case seam.Send(peer, protocol, message, "") if peer != self._node:
                return [self._courier.tell(peer, protocol, message, now_ms)]
            case seam.Send() | seam.Request():
                return [self._ask(index, effect, now_ms)]
            case seam.Reply(token, message):
                return [self._questions.reply(token, message, now_ms)]
            case seam.Compute(token, model, inputs, deadline_ms, streams):
                return [ce.Compute(_join(index, token), model, inputs, deadline_ms, streams)]
            case seam.Inspect(token, model, question, deadline_ms):
                return [ce.Inspect(_join(index, token), model, question, deadline_ms)]
            case seam.Withdraw(token):
                return [ce.Withdraw(_join(index, token))]
            case seam.Fetch(source, local):
                if source.startswith(SCHEMES):
                    return [ce.FetchUrl(source, URL_TIMEOUT_MS)]
                return self._fetcher.fetch(parse_cid(source), index, local)
            case seam.Gather(cid, peers, name, expires_ms):
                state = self._follower.state
                return self._gatherer.gather(read_cid(cid), peers, index, name, expires_ms, state, now_ms)
            case seam.Prove(token, cid, bytes_max, indices):
                return [se.Prove(_join(index, token), read_cid(cid), bytes_max, indices)]
            case seam.LetGo(cid, name):
                return [se.Unpin(read_cid(cid), name)]
            case seam.Submit(seam.Decided() as decided):
                return self._follower.adopt(decided)
            case seam.Submit(body, token):
                return self._submitter.submit(body, index, token, self._follower.state, now_ms)
            case seam.LogVote(record):
                return [ce.LogVote(record)]
            case seam.CatchUp(peer, height):
                return self._follower.on_tip(peer, height, now_ms)
            case seam.Halt(reason):
                return [ce.Halt(reason)]
            case seam.SetTimer(name, at_ms):
                return [self._courier.wake(_join(index, name), at_ms)]
            case seam.Penalise(peer, reason):
                return [ce.NetPenalise(peer, reason)]
            case seam.Deliver(outcome):
                return [ce.Deliver(self._roles[index].name, outcome)]

    def _publish(self, index: int, wanted: seam.Publish, now_ms: int) -> list[Out]:
        topic, message = wanted.topic, wanted.message
        sealed = self._courier.publish(topic, message, _join(index, wanted.token), now_ms)
        if len(sealed.data) > GOSSIP_BYTES_MAX:
            # A role's mistake costs it the message; the network would take it for a bug of the node.
            fields = {"topic": topic, "bytes": len(sealed.data), "bytes_max": GOSSIP_BYTES_MAX}
            return [ce.Log("message.too_large", fields), ToRoles(seam.Published(topic, wanted.token, 0), index)]
        self._recent.keep(message)
        return [sealed, *self.hand_out(seam.Received(self._node, message, topic), but=index)]

    def _ask(self, index: int, wanted: seam.Send | seam.Request, now_ms: int) -> Out:
        if wanted.peer == self._node:
            return self._questions.ask_here(index, wanted, now_ms)
        route = _join(index, wanted.token)
        return self._courier.request(wanted.peer, wanted.protocol, wanted.message, route, wanted.timeout_ms, now_ms)


def _join(index: int, token: str) -> str:
    """A role's token, or name of a timer, as the node's: no two roles share one."""
    return f"{index}:{token}"


def _split(token: str) -> tuple[int | None, str]:
    """The role and its own token; None for what is no role's."""
    head, separator, own = token.partition(":")
    return (int(head), own) if separator and head.isdecimal() else (None, token)
