"""Keys: the one signature check of the project, and how keys are written for people.

All keys are Ed25519. Libraries disagree about odd keys and signatures, and a ledger whose nodes disagree splits, so
there is one `verify` with one rule: libsodium's (key and R canonical and not of small order, S below the group order,
no cofactor). A node is written as its libp2p peer id (`12D3Koo…`), an account as bech32m (`rm1…`).
"""

from functools import lru_cache
from typing import Protocol

import base58
from nacl import bindings
from nacl.exceptions import CryptoError

from protocol.bech32 import format_bech32m, from_groups, parse_bech32m, to_groups
from protocol.errors import LocalError, MalformedMessage

KEY_SIZE = 32
SIGNATURE_SIZE = 64
ACCOUNT_PREFIX = "rm"
NODE_TEXT_MAX = 64
NAMES_REMEMBERED = 1_024  # nodes name their peers again and again, in logs and every second in their status
# Identity multihash of 36 bytes: the libp2p PublicKey message {1: Ed25519, 2: 32 bytes of key}.
_PEER_ID_PREFIX = bytes((0x00, 0x24, 0x08, 0x01, 0x12, 0x20))
_good: set[tuple[bytes, bytes, bytes]] = set()  # what `verify` need not verify again: key, data and signature
_good_max = 0


class Signer(Protocol):
    """Whatever can sign for one public key."""

    @property
    def public(self) -> bytes:
        """32 bytes."""

    def sign(self, data: bytes) -> bytes:
        """64 bytes."""

    def __hash__(self) -> int:
        """So that what follows from a key is worked out once."""


class PrivateKey:
    """An Ed25519 private key. Its repr shows the public half alone, and it cannot be pickled."""

    __slots__ = ("_secret", "public", "seed")

    def __init__(self, seed: bytes) -> None:
        if type(seed) is not bytes or len(seed) != KEY_SIZE:
            raise LocalError(f"a seed is {KEY_SIZE} bytes")
        self.seed = seed
        self.public, self._secret = bindings.crypto_sign_seed_keypair(seed)

    @classmethod
    def from_seed(cls, seed: bytes) -> "PrivateKey":
        return cls(seed)

    def sign(self, data: bytes) -> bytes:
        signature = bindings.crypto_sign(data, self._secret)[:SIGNATURE_SIZE]
        if _good_max:
            _remember(self.public, data, signature)
        return signature

    def __repr__(self) -> str:
        return f"PrivateKey(public={self.public.hex()})"

    def __reduce__(self) -> str:
        raise LocalError("a private key is not pickled")


def verify(public: bytes, data: bytes, signature: bytes) -> bool:
    """Whether `signature` over `data` was made with the key of `public`. Never raises.

    >>> key = PrivateKey.from_seed(bytes(32))
    >>> verify(key.public, b"data", key.sign(b"data")), verify(key.public, b"else", key.sign(b"data"))
    (True, False)
    """
    if not (type(public) is type(data) is type(signature) is bytes):
        return False
    if len(public) != KEY_SIZE or len(signature) != SIGNATURE_SIZE:
        return False
    if (public, data, signature) in _good:
        return True
    try:
        bindings.crypto_sign_open(signature + data, public)
    except CryptoError:
        return False
    if _good_max:
        _remember(public, data, signature)
    return True


def remember_good(count: int) -> None:
    """Have `verify` remember up to `count` signatures that it found good or that were made here.

    For a process that many nodes share: each verifies what all are told. A node by itself verifies each once.
    """
    global _good_max
    _good_max = count


def _remember(public: bytes, data: bytes, signature: bytes) -> None:
    if len(_good) >= _good_max:
        _good.clear()
    _good.add((public, data, signature))


def is_valid_public_key(public: bytes) -> bool:
    """Whether a key may be registered: a canonical point of the prime-order group.

    Stricter than `verify`, which also takes points with a part of small order: no honest key has one.
    """
    if type(public) is not bytes or len(public) != KEY_SIZE:
        return False
    return bindings.crypto_core_ed25519_is_valid_point(public)


def format_node(public: bytes) -> str:
    """A node key as its libp2p peer id.

    >>> format_node(bytes(32))
    '12D3KooW9pNAk8aiBuGVQtWRdbkLmo5qVL3e2h5UxbN2Nz9ttwiw'
    """
    return _write_peer_id(_expect_key(public))


@lru_cache(NAMES_REMEMBERED)
def _write_peer_id(public: bytes) -> str:
    return base58.b58encode(_PEER_ID_PREFIX + public).decode()


def parse_node(text: str) -> bytes:
    """The node key of a peer id. MalformedMessage when it is none of an Ed25519 key."""
    if len(text) > NODE_TEXT_MAX or not text.isascii():
        raise MalformedMessage("not a peer id: too long, or not ASCII")
    try:
        data = base58.b58decode(text)
    except ValueError as error:
        raise MalformedMessage(f"not a peer id: {error}") from error
    public = data[len(_PEER_ID_PREFIX) :]
    # Base58 drops white space at the end; comparing leaves one spelling.
    if len(public) != KEY_SIZE or format_node(public) != text:
        raise MalformedMessage("not the peer id of an Ed25519 key (those begin with 12D3Koo)")
    return public


def format_account(public: bytes) -> str:
    """An account key as text that no typo turns into another.

    >>> format_account(bytes(32))
    'rm1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqxj5wc4'
    """
    return format_bech32m(ACCOUNT_PREFIX, to_groups(_expect_key(public)))


def parse_account(text: str) -> bytes:
    """The account key of an `rm1…` text, lower case. MalformedMessage says what is wrong with it."""
    prefix, groups = parse_bech32m(text)
    if prefix != ACCOUNT_PREFIX or text != text.lower():
        raise MalformedMessage(f"not an account: those begin with {ACCOUNT_PREFIX}1, in lower case")
    public = from_groups(groups)
    if len(public) != KEY_SIZE:
        raise MalformedMessage(f"not an account: {len(public)} bytes, not {KEY_SIZE}")
    return public


def _expect_key(public: bytes) -> bytes:
    if type(public) is not bytes or len(public) != KEY_SIZE:
        raise LocalError(f"a public key is {KEY_SIZE} bytes")
    return public
