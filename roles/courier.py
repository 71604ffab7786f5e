"""What the parts of a node's core share: making effects, and events for its roles."""

from dataclasses import dataclass
from typing import Any

from protocol.bare import wrap
from protocol.registry import find_protocol
from protocol.topics import protocol_name, topic_name
from roles.core_effects import CoreEffect, NetPublish, NetReply, NetRequest, NetTell, Wake
from roles.mailbox import Mailbox
from roles.role import Event


@dataclass(frozen=True)
class ToRoles:
    """An event for every role, or for one."""

    event: Event
    role: int | None = None


Out = CoreEffect | ToRoles


class Courier:
    """Seals messages and addresses them. Tokens and timer names are the core's."""

    def __init__(self, mailbox: Mailbox, chain: bytes) -> None:
        self._mailbox = mailbox
        self._chain = chain

    def publish(self, topic: str, message: Any, token: str, now_ms: int) -> NetPublish:
        return NetPublish(topic_name(self._chain, topic), self._mailbox.seal(message, now_ms), token)

    def request(self, peer: bytes, protocol: str, message: Any, route: str, timeout_ms: int, now_ms: int) -> NetRequest:
        """Ask a peer. The token says what its outcome is for, and what the answer must be: see `parse_token`."""
        data = self._seal(protocol, message, now_ms)
        return NetRequest(
            peer, protocol_name(self._chain, protocol), data, f"{route}|{protocol}|{peer.hex()}", timeout_ms
        )

    def tell(self, peer: bytes, protocol: str, message: Any, now_ms: int) -> NetTell:
        """Hand something to a peer without waiting for more."""
        return NetTell(peer, protocol_name(self._chain, protocol), self._seal(protocol, message, now_ms))

    def _seal(self, protocol: str, message: Any, now_ms: int) -> bytes:
        return wrap(self._chain, message) if is_bare(protocol) else self._mailbox.seal(message, now_ms)

    def reply(self, token: str, message: Any, now_ms: int) -> NetReply:
        return NetReply(token, self._mailbox.seal(message, now_ms))

    def reply_bare(self, token: str, message: Any) -> NetReply:
        """Answer a request of a bare protocol."""
        return NetReply(token, wrap(self._chain, message))

    def wake(self, name: str, at_ms: int) -> Wake:
        return Wake(name, at_ms)


def is_bare(protocol: str) -> bool:
    """Whether messages of a stream protocol, by its short name, travel without envelopes."""
    carrier = find_protocol(protocol)
    return carrier is not None and carrier.is_bare


def parse_token(token: str) -> tuple[str, str, bytes]:
    """Of a request's token: the route its outcome takes in the core, the protocol, and the peer that must sign."""
    route, protocol, peer_hex = token.rsplit("|", 2)
    return route, protocol, bytes.fromhex(peer_hex)
