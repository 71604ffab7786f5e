"""Bytes by name: sha256, written as the CIDv1 of one raw block, the same name that IPFS tools compute."""

import base64
import hashlib

from protocol.errors import LocalError, MalformedMessage

DIGEST_SIZE = 32
BLOB_BYTES_MAX = 2 * 1024 * 1024  # of one block
CID_TEXT_SIZE = 59
_CID_PREFIX = bytes((0x01, 0x55, 0x12, 0x20))  # CIDv1, raw block, sha2-256, 32 bytes
_PADDING = b"=" * 6  # base32 of 36 bytes has 58 letters, six short of whole groups of eight


def compute_digest(data: bytes) -> bytes:
    """The sha256 of a block, by which it is stored, asked for and checked."""
    return hashlib.sha256(data).digest()


def format_cid(digest: bytes) -> str:
    """A digest as CID.

    >>> format_cid(compute_digest(b""))
    'bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku'
    """
    if type(digest) is not bytes or len(digest) != DIGEST_SIZE:
        raise LocalError(f"a digest is {DIGEST_SIZE} bytes")
    return "b" + base64.b32encode(_CID_PREFIX + digest).decode().rstrip("=").lower()


def parse_cid(text: str) -> bytes:
    """The digest of a raw block's CID. MalformedMessage for any other CID, and for any other spelling of it."""
    if len(text) != CID_TEXT_SIZE or not text.startswith("bafkrei"):
        raise MalformedMessage(f"not the CID of a raw block: those have {CID_TEXT_SIZE} letters and begin with bafkrei")
    try:
        data = base64.b32decode(text[1:].upper().encode("ascii") + _PADDING)
    except ValueError as error:
        raise MalformedMessage("not a CID: a letter outside base32") from error
    digest = data[len(_CID_PREFIX) :]
    if format_cid(digest) != text:
        raise MalformedMessage("not the canonical spelling of a CID")
    return digest
