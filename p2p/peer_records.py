"""Signed peer records: where a peer says it can be dialled, in its own hand, so that others may pass it on.

An envelope (public key, type, payload, signature) around a peer record (peer id, seq, addresses). Pure.
Source: libp2p RFC 0002 (signed envelopes) and RFC 0003 (routing records).
"""

import ipaddress

from p2p.gossipsub.signing import ED25519_HEAD
from p2p.protobuf import read_fields, write_varint
from protocol.errors import BadSignature, MalformedMessage
from protocol.keys import verify

RECORD_BYTES_MAX = 4_096
ADDRESSES_MAX = 8
_DOMAIN = b"libp2p-peer-record"
_TYPE = b"\x03\x01"
_KEY_HEAD = ED25519_HEAD[2:]  # of a libp2p PublicKey message
_KEY_SIZE = 32
_FIELDS_MAX = 64
_IP4, _IP6, _TCP = 4, 41, 6  # multiaddr codes; all below 128, one byte each


def read_record(data: bytes) -> tuple[bytes, tuple[str, ...]]:
    """The node key a record is signed with, and its TCP multiaddrs; others are left out.

    Raises RemoteError: MalformedMessage or MalformedPacket, BadSignature when it is not its own signer's word.
    """
    if len(data) > RECORD_BYTES_MAX:
        raise MalformedMessage(f"a peer record of {len(data)} bytes, at most {RECORD_BYTES_MAX}")
    key, kind, payload, signature = _read_envelope(data)
    peer_id, addresses = _read_payload(payload)
    node = key[len(_KEY_HEAD) :]
    if not key.startswith(_KEY_HEAD) or len(node) != _KEY_SIZE or kind != _TYPE:
        raise MalformedMessage("not a peer record of an Ed25519 key")
    if peer_id != ED25519_HEAD + node:
        raise BadSignature("a peer record about another peer than its signer")
    signed = b"".join(write_varint(len(part)) + part for part in (_DOMAIN, kind, payload))
    if not verify(node, signed, signature):
        raise BadSignature("a peer record that its peer has not signed")
    return node, addresses


def _read_envelope(data: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    parts = {1: b"", 2: b"", 3: b"", 5: b""}
    for number, _, value in read_fields(data, _FIELDS_MAX):
        if number in parts:
            parts[number] = value
    return parts[1], parts[2], parts[3], parts[5]


def _read_payload(payload: bytes) -> tuple[bytes, tuple[str, ...]]:
    peer_id, found = b"", []
    for number, _, value in read_fields(payload, _FIELDS_MAX):
        if number == 1:
            peer_id = value
        elif number == 3:
            found += [text for inner, _, raw in read_fields(value, _FIELDS_MAX) if inner == 1 and (text := _spell(raw))]
    return peer_id, tuple(found[:ADDRESSES_MAX])


def _spell(raw: bytes) -> str:
    """`/ip4/…/tcp/…` or `/ip6/…/tcp/…`, whatever follows cut off; empty for any other address."""
    size = {_IP4: 4, _IP6: 16}.get(raw[0] if raw else 0, 0)
    if not size or len(raw) < size + 4 or raw[size + 1] != _TCP:
        return ""
    family = "ip4" if size == 4 else "ip6"
    return f"/{family}/{ipaddress.ip_address(raw[1 : size + 1])}/tcp/{int.from_bytes(raw[size + 2 : size + 4], 'big')}"
