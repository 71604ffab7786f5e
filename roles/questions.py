"""Questions that peers and the node's own roles ask of this node: each to whoever answers it, and the answer back.

What every node answers (`OWN_PROTOCOLS`) is answered here, the rest by the role that serves the protocol, in its time,
or, of blocks, by the node's `block_server`.
"""

from collections.abc import Callable
from typing import Any

from p2p.net import Asked
from protocol.errors import RemoteError
from protocol.messages import (
    GetAttestations,
    GetBlocks,
    GetClaims,
    GetMissed,
    GetStatus,
    GetTransactions,
    Refused,
    Status,
)
from roles.block_server import BlockServer
from roles.core_effects import NetPenalise
from roles.courier import Courier, Out, ToRoles, is_bare
from roles.follower import Follower
from roles.mailbox import Mailbox
from roles.pull import Puller
from roles.recent import Recent
from roles.role import Received, Request, Requested, RequestFailed, Role, Send

OWN_PROTOCOLS = ("sync", "status")
BLOCKS = "blob"
BARE_MARK = "bare:"  # on tokens of questions without an envelope, which are answered in kind
NOT_SERVED = "this node does not serve that"


class Questions:
    """`get_status` says how the node is at that moment."""

    def __init__(
        self,
        roles: tuple[Role, ...],
        mailbox: Mailbox,
        courier: Courier,
        follower: Follower,
        recent: Recent,
        puller: Puller,
        blocks: BlockServer,
        get_status: Callable[[], Status],
    ) -> None:
        self._roles = roles
        self._mailbox = mailbox
        self._courier = courier
        self._follower = follower
        self._recent = recent
        self._puller = puller
        self._blocks = blocks
        self._get_status = get_status
        self._hears_claims = any("claims" in role.topics for role in roles)
        self._asked_here: dict[str, tuple[int, bytes, str]] = {}  # by a role of this node: which, of whom, its token
        self._asked_here_count = 0

    def on_asked(self, asked: Asked, protocol: str, now_ms: int) -> list[Out]:
        """A peer asks. `protocol` is the short name, empty for one of another network."""
        peer, token = asked.peer, asked.token
        try:
            question = self._mailbox.open_from(peer, protocol, asked.data)
        except RemoteError as error:
            reason = f"malformed request: {error}"
            return [NetPenalise(peer, reason), self._answer(protocol, token, Refused(reason[:500]), now_ms)]
        if protocol in OWN_PROTOCOLS:
            hint = self._get_hint(peer, question, now_ms)
            return [*hint, self._answer(protocol, token, self._find_answer(peer, question, now_ms), now_ms)]
        index = self._find_server(protocol)
        if index is None and protocol == BLOCKS:
            return self._blocks.on_asked(peer, token, question)
        if index is None:
            return [self._answer(protocol, token, Refused(NOT_SERVED), now_ms)]
        if is_bare(protocol):
            return [ToRoles(Requested(peer, question, protocol, BARE_MARK + token), index)]
        return [ToRoles(Requested(peer, question, protocol, token), index)]

    def ask_here(self, index: int, wanted: Send | Request, now_ms: int) -> Out:
        """A role asks its own node as it would ask a peer."""
        node, protocol, question, token = wanted.peer, wanted.protocol, wanted.message, wanted.token
        other = self._find_server(protocol)
        if other is not None:
            self._asked_here_count += 1
            here = f"local-{self._asked_here_count}"
            self._asked_here[here] = (index, node, token)
            return ToRoles(Requested(node, question, protocol, here), other)
        if protocol in OWN_PROTOCOLS:
            return ToRoles(Received(node, self._find_answer(node, question, now_ms), token=token), index)
        return ToRoles(RequestFailed(node, token, NOT_SERVED), index)

    def reply(self, token: str, answer: Any, now_ms: int) -> Out:
        """A role's answer to a question that it was handed with this token."""
        if token in self._asked_here:
            asker, node, own = self._asked_here.pop(token)
            return ToRoles(Received(node, answer, token=own), asker)
        if token.startswith(BARE_MARK):
            return self._courier.reply_bare(token.removeprefix(BARE_MARK), answer)
        return self._courier.reply(token, answer, now_ms)

    def _answer(self, protocol: str, token: str, answer: Any, now_ms: int) -> Out:
        if is_bare(protocol):
            return self._courier.reply_bare(token, answer)
        return self._courier.reply(token, answer, now_ms)

    def _find_server(self, protocol: str) -> int | None:
        return next((index for index, role in enumerate(self._roles) if protocol in role.protocols), None)

    def _find_answer(self, peer: bytes, question: Any, now_ms: int) -> Any:
        match question:
            case GetBlocks():
                return self._follower.get_blocks(question)
            case GetClaims(ids):
                return self._recent.get_claims(ids)
            case GetAttestations(ids):
                return self._recent.get_attestations(ids)
            case GetTransactions(ids):
                return self._recent.get_transactions(ids)
            case GetMissed():
                return self._puller.answer(peer, question, self._follower.state.height, now_ms)
            case GetStatus():
                return self._get_status()
        return Refused(f"{type(question).__name__} is no question")

    def _get_hint(self, peer: bytes, question: Any, now_ms: int) -> list[Out]:
        """Whoever asks a verifier about a claim it has not heard of has that claim."""
        is_news = isinstance(question, GetAttestations) and not self._recent.knows_claims(question.claim_ids)
        return self._puller.hint(peer, now_ms) if is_news and self._hears_claims else []
