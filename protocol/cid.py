"""Names of blocks as IPFS tools write them: CIDv1, sha2-256, base32; `raw` for plain bytes, `dag-pb` for nodes.

One spelling per name: everything else is refused. Source: multiformats, CID.
"""

import base64
import hashlib
from typing import NamedTuple

from protocol.errors import LocalError, MalformedMessage

DIGEST_SIZE = 32
CID_SIZE = 36  # packed
CID_TEXT_SIZE = 59
RAW, DAG_PB = 0x55, 0x70
_VERSION, _SHA2_256 = 0x01, 0x12
_PADDING = b"=" * 6  # base32 of 36 bytes has 58 letters, six short of whole groups of eight


class Cid(NamedTuple):
    """The name of a block: what its bytes are, and their sha256."""

    codec: int
    digest: bytes

    def pack(self) -> bytes:
        """As it stands in links, 36 bytes."""
        if self.codec not in (RAW, DAG_PB) or type(self.digest) is not bytes or len(self.digest) != DIGEST_SIZE:
            raise LocalError(f"a CID is of codec {RAW:#x} or {DAG_PB:#x} and has a digest of {DIGEST_SIZE} bytes")
        return bytes((_VERSION, self.codec, _SHA2_256, DIGEST_SIZE)) + self.digest

    def __str__(self) -> str:
        """
        >>> str(compute_cid(RAW, b"hello world"))
        'bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e'
        """
        return "b" + base64.b32encode(self.pack()).decode().rstrip("=").lower()


def compute_cid(codec: int, data: bytes) -> Cid:
    """The name of a block with these bytes."""
    return Cid(codec, hashlib.sha256(data).digest())


def unpack_cid(data: bytes) -> Cid:
    """The CID of its 36 bytes. MalformedMessage for any other kind of CID."""
    if len(data) != CID_SIZE:
        raise MalformedMessage(f"a CID of {len(data)} bytes: ours have {CID_SIZE}")
    version, codec, function, size = data[:4]
    if version != _VERSION or codec not in (RAW, DAG_PB) or function != _SHA2_256 or size != DIGEST_SIZE:
        raise MalformedMessage("not a CIDv1 with sha2-256 of a raw or dag-pb block")
    return Cid(codec, bytes(data[4:]))


def read_cid(text: str) -> Cid:
    """The CID of its text. MalformedMessage for any other kind of CID, and for any other spelling of it."""
    if len(text) != CID_TEXT_SIZE or not text.startswith("b"):
        hint = "ours have 59 letters and begin with bafkrei or bafybei (CIDv1, base32, sha2-256, raw or dag-pb)"
        raise MalformedMessage(f"not a CID of this store: {hint}")
    try:
        cid = unpack_cid(base64.b32decode(text[1:].upper().encode("ascii") + _PADDING))
    except ValueError as error:
        raise MalformedMessage("not a CID: a letter outside base32") from error
    if str(cid) != text:
        raise MalformedMessage("not the canonical spelling of a CID")
    return cid
