"""Sign statements and check them: domain, NUL, and the hash of every field but the signature.

A signed statement is a frozen dataclass with a class variable `DOMAIN` and a last field `signature`. The domain keeps a
signature made for one type of statement from standing under another.
"""

import dataclasses
import hashlib
from functools import lru_cache
from typing import Any, TypeVar

from protocol.codec import encode_unsigned
from protocol.errors import BadSignature, LocalError
from protocol.keys import Signer, verify

PREFIX = b"rolemesh/v1/"
REMEMBERED_MAX = 16_384  # signatures that held, about half a KiB each
T = TypeVar("T")

_prefixes: dict[type, bytes] = {}


def compute_signing_bytes(obj: Any) -> bytes:
    """What the signature of `obj` covers; its sha256 serves as the statement's id."""
    cls = type(obj)
    return (_prefixes.get(cls) or _compute_prefix(cls)) + hashlib.sha256(encode_unsigned(obj)).digest()


def sign(obj: T, signer: Signer) -> T:
    """The same statement with its `signature` made by `signer`, whatever stood there before."""
    return dataclasses.replace(obj, signature=signer.sign(compute_signing_bytes(obj)))  # type: ignore[type-var]


def verify_signed(obj: Any, public: bytes) -> None:
    """Silence when `obj` was signed with the key of `public`, BadSignature otherwise."""
    try:
        verify_once(public, compute_signing_bytes(obj), obj.signature)
    except BadSignature:
        raise BadSignature(f"{type(obj).__name__} is not signed by {public.hex()}") from None


@lru_cache(maxsize=REMEMBERED_MAX)
def verify_once(public: bytes, data: bytes, signature: bytes) -> None:
    """Silence when `signature` over `data` is by `public`, BadSignature otherwise.

    Gossip asks, then a role; of what stands in a transaction the pool asks, then every block that tries it. A signature
    that has held is remembered; one that has not never is, so that junk cannot push out what was worth the work.
    """
    if not verify(public, data, signature):
        raise BadSignature(f"not signed by {public.hex()}")  # an error is not remembered


def compute_domain_prefix(domain: str) -> bytes:
    """Begins everything that is signed: project, version, domain, NUL."""
    if not domain.isascii() or "\0" in domain or not domain:
        raise LocalError(f"{domain!r} cannot be a signing domain")
    return PREFIX + domain.encode() + b"\0"


def _compute_prefix(cls: type) -> bytes:
    domain = getattr(cls, "DOMAIN", None)
    if not isinstance(domain, str) or domain.startswith("envelope/"):
        raise LocalError(f"{cls.__name__} has no DOMAIN of its own to be signed under")
    fields = dataclasses.fields(cls)
    if not fields or fields[-1].name != "signature":
        raise LocalError(f"{cls.__name__}: the last field of a signed statement is `signature`")
    prefix = _prefixes[cls] = compute_domain_prefix(domain)
    return prefix
