"""Bytes by name: sha256, written as the CIDv1 of one raw block, the same name that IPFS tools compute."""

import hashlib

from protocol.cid import CID_TEXT_SIZE as CID_TEXT_SIZE
from protocol.cid import DIGEST_SIZE as DIGEST_SIZE
from protocol.cid import RAW, Cid, read_cid
from protocol.errors import LocalError, MalformedMessage

BLOB_BYTES_MAX = 2 * 1024 * 1024  # of one block


def compute_digest(data: bytes | memoryview) -> bytes:
    """The sha256 of a block, by which it is stored, asked for and checked."""
    return hashlib.sha256(data).digest()


def format_cid(digest: bytes) -> str:
    """A digest as CID.

    >>> format_cid(compute_digest(b""))
    'bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku'
    """
    if type(digest) is not bytes or len(digest) != DIGEST_SIZE:
        raise LocalError(f"a digest is {DIGEST_SIZE} bytes")
    return str(Cid(RAW, digest))


def parse_cid(text: str) -> bytes:
    """The digest of a raw block's CID. MalformedMessage for any other CID, and for any other spelling of it."""
    if len(text) != CID_TEXT_SIZE or not text.startswith("bafkrei"):
        raise MalformedMessage(f"not the CID of a raw block: those have {CID_TEXT_SIZE} letters and begin with bafkrei")
    return read_cid(text).digest
