"""The names of messages, and the signatures of StrictSign.

Source: pubsub specification, Message Identification and Message Signing.
"""

from collections.abc import Callable
from dataclasses import dataclass

from blake3 import blake3

from p2p.gossipsub.wire import Message, write_signed_part
from protocol.errors import BadSignature, NotForUs, RemoteError
from protocol.keys import verify

ID_BYTES = 20
COPIED_BYTES_MAX = 64 * 1024  # data is put behind its prefix: two calls cost more than the copy
SEQNO_BYTES = 8
FROM_BYTES_MAX = 64
_ID_DOMAIN = b"rolemesh/v1/gossip\0"
_SIGN_PREFIX = b"libp2p-pubsub:"
_KEY_HEAD = bytes((0x08, 0x01, 0x12, 0x20))  # libp2p PublicKey message: type Ed25519, 32 bytes follow
ED25519_HEAD = bytes((0x00, 0x24)) + _KEY_HEAD  # its identity multihash: a peer id that holds its key


class MissingSignature(RemoteError):
    """A message without author, number or signature where the topic asks for them."""


class UnknownAuthor(NotForUs):
    """An author whose kind of key we cannot check."""


def build_id_prefix(topic: bytes) -> bytes:
    """What stands before the data when a content id is made; once per topic."""
    return _ID_DOMAIN + topic + b"\0"


def compute_message_id(topic: str, data: bytes) -> bytes:
    """20 bytes over everything sent, so that a forged copy has an id of its own and cannot silence the honest one.

    BLAKE3, which is fast on every processor: an id is made for each message that comes.
    """
    return compute_content_id(build_id_prefix(topic.encode()), data)


def compute_content_id(prefix: bytes, data: bytes) -> bytes:
    """The same, with the prefix built before."""
    if len(data) < COPIED_BYTES_MAX:
        return blake3(prefix + data).digest()[:ID_BYTES]  # asked for so many it takes half as long again
    return blake3(prefix).update(data).digest()[:ID_BYTES]


def get_default_id(message: Message) -> bytes:
    """Author and number, as other networks name signed messages. Raises MissingSignature."""
    if not message.from_id or not message.seqno or not message.signature:
        raise MissingSignature("a message on a signed topic without author, number or signature")
    if len(message.from_id) > FROM_BYTES_MAX or len(message.seqno) != SEQNO_BYTES:
        raise MissingSignature("an author or number of the wrong length")
    return message.from_id + message.seqno


def verify_author(message: Message) -> None:
    """Raises BadSignature, or UnknownAuthor for a key that is not Ed25519."""
    author, signature = message.from_id or b"", message.signature or b""
    if not author.startswith(ED25519_HEAD) or len(author) != len(ED25519_HEAD) + 32:
        raise UnknownAuthor("only Ed25519 authors can be checked")
    if message.key is not None and message.key != author[2:]:
        raise BadSignature("the key does not fit the author")
    if not verify(author[len(ED25519_HEAD) :], _SIGN_PREFIX + write_signed_part(message), signature):
        raise BadSignature("the signature does not fit the message")


@dataclass
class Author:
    """Signs our own messages on signed topics. `sign` makes an Ed25519 signature; `seqno` is the next number."""

    node: bytes
    sign: Callable[[bytes], bytes]
    seqno: int

    def write(self, topic: bytes, data: bytes) -> Message:
        """The next message, signed."""
        self.seqno = (self.seqno + 1) % 2**64
        unsigned = Message(topic, data, ED25519_HEAD + self.node, self.seqno.to_bytes(SEQNO_BYTES))
        return unsigned._replace(signature=self.sign(_SIGN_PREFIX + write_signed_part(unsigned)))
