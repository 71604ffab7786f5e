"""Messages without envelopes: one spelling, one chain, nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.bare import Bare, unwrap, wrap
from protocol.codec import decode, encode
from protocol.errors import MalformedMessage, RemoteError, UnknownVersion, WrongChain
from protocol.messages import Accepted, GetDraft, Said
from protocol.registry import kind_of

CHAIN = b"chain-id"


def test_what_is_wrapped_comes_out_again() -> None:
    for message in (Said((), (), (), ()), GetDraft(b"i" * 32, (b"d" * 32,)), Accepted()):
        bare = unwrap(wrap(CHAIN, message), CHAIN, 1_000)
        assert bare.kind == kind_of(type(message))
        assert decode(type(message), bare.body) == message


def test_another_chain_version_or_size_is_refused() -> None:
    wire = wrap(CHAIN, Accepted())
    with pytest.raises(WrongChain):
        unwrap(wire, b"chain-ie", 1_000)
    with pytest.raises(UnknownVersion):
        unwrap(encode(Bare(2, CHAIN, 1, b"")), CHAIN, 1_000)
    with pytest.raises(MalformedMessage):
        unwrap(wire, CHAIN, len(wire) - 1)


@given(st.binary(max_size=200))
def test_junk_is_a_strangers_fault(data: bytes) -> None:
    with pytest.raises(RemoteError):
        unwrap(data, CHAIN, 1_000)
