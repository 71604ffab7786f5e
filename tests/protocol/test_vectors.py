"""Golden bytes: what is on the wire changes on purpose only, and a reader that shares no code with ours agrees."""

import hashlib
import json
from functools import cache
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from protocol.codec import decode, encode
from protocol.envelope import open_message
from protocol.keys import parse_account, parse_node
from protocol.registry import EXTENSION_KIND_MIN, all_messages, get_message
from protocol.signing import verify_signed
from tests.make_vectors import CHAIN, KEY, VECTORS, build_vectors, format_vectors
from tests.support.from_types import find_all_types, spell, to_json

FILES = ("messages.json", "objects.json", "names.json")


@cache
def load(file: str) -> Any:
    return json.loads((VECTORS / file).read_text(encoding="utf-8"))


@cache
def rebuild() -> dict[str, Any]:
    return build_vectors()


@pytest.mark.parametrize("file", FILES)
def test_the_wire_is_what_it_was(file: str) -> None:
    committed = (VECTORS / file).read_text(encoding="utf-8")

    assert format_vectors(rebuild()[file]) == committed, "changed on purpose? then: python -m tests.make_vectors"


def test_every_kind_and_every_type_has_its_bytes() -> None:
    kinds = {kind.name for kind in all_messages() if kind.kind < EXTENSION_KIND_MIN}
    types = {vector["type"] for file in FILES[:2] for vector in load(file)}

    assert {vector["name"] for vector in load("messages.json")} == kinds
    assert {spell(cls) for cls in find_all_types()} - types == {"protocol.envelope.Envelope"}


def test_we_read_our_own_bytes() -> None:
    for vector in load("messages.json"):
        envelope, message = open_message(bytes.fromhex(vector["envelope"]), CHAIN, 65_536)
        assert type(message) is get_message(int(vector["kind"], 16))
        assert to_json(message) == vector["value"]
        assert encode(message) == envelope.body == bytes.fromhex(vector["body"])
    types = {spell(cls): cls for cls in find_all_types()}
    for vector in load("objects.json"):
        value: Any = decode(types[vector["type"]], bytes.fromhex(vector["bytes"]))
        assert to_json(value) == vector["value"]
        if "domain" in vector:
            verify_signed(value, KEY.public)


def test_an_independent_reader_agrees_on_every_value() -> None:
    for vector in (*load("messages.json"), *load("objects.json")):
        data = bytes.fromhex(vector.get("body") or vector["bytes"])
        value = msgspec.msgpack.decode(data)
        assert to_json(value) == vector["value"]
        assert msgspec.msgpack.encode(value) == data


def test_an_independent_reader_agrees_on_every_signature() -> None:
    public = Ed25519PublicKey.from_public_bytes(KEY.public)
    for vector in load("messages.json"):
        *fields, signature = msgspec.msgpack.decode(bytes.fromhex(vector["envelope"]))
        signed = hashlib.sha256(msgspec.msgpack.encode(fields)).digest()
        preimage = b"rolemesh/v1/envelope/" + vector["kind"][2:].encode() + b"\0" + signed
        public.verify(signature, preimage)
        assert hashlib.sha256(preimage).hexdigest() == vector["envelope_id"]
    for vector in load("objects.json"):
        if "domain" in vector:
            *fields, signature = msgspec.msgpack.decode(bytes.fromhex(vector["bytes"]))
            signed = hashlib.sha256(msgspec.msgpack.encode(fields)).digest()
            preimage = b"rolemesh/v1/" + vector["domain"].encode() + b"\0" + signed
            assert preimage.hex() == vector["signing_bytes"]
            public.verify(signature, preimage)


def test_signed_statements_have_domains_of_their_own() -> None:
    domains = {vector["type"]: vector["domain"] for vector in load("objects.json") if "domain" in vector}

    assert len(set(domains.values())) == len(domains)


def test_the_names_read_back() -> None:
    names = load("names.json")

    assert parse_node(names["node"]) == parse_account(names["account"]) == bytes.fromhex(names["public"])
    tensor = names["tensor"]
    head = b"rolemesh/v1/tensor\0\x07float32\x02" + b"".join(size.to_bytes(8, "little") for size in tensor["shape"])
    digest = hashlib.sha256(head + bytes.fromhex(tensor["data"])).digest()
    assert digest.hex() == names["tensor_digest"]
    several = hashlib.sha256(b"rolemesh/v1/tensors\0" + (1).to_bytes(8, "little") + digest)
    assert several.hexdigest() == names["tensors_digest"]
