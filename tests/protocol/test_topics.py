"""Names of topics and stream protocols, and what they carry."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import protocol.messages
from protocol.errors import LocalError, MalformedMessage
from protocol.registry import EXTENSION_KIND_MIN, all_messages
from protocol.topics import (
    PROTOCOLS,
    ROLES,
    SHARD_BITS_MAX,
    TOPICS,
    compute_shard,
    infer_topic,
    oracle_topic,
    parse_name,
    protocol_name,
    topic_name,
)

CHAIN = bytes(range(8))


def test_every_message_of_ours_is_carried_somewhere_and_every_carried_kind_is_one() -> None:
    kinds = {kind.kind for kind in all_messages() if kind.kind < EXTENSION_KIND_MIN}
    carried = {kind for carrier in (*TOPICS.values(), *PROTOCOLS.values()) for kind in carrier.kinds}

    assert protocol.messages.__name__ in {kind.type.__module__ for kind in all_messages()}
    assert kinds == {kind for kind in carried if kind < EXTENSION_KIND_MIN}


def test_every_listener_is_a_role() -> None:
    for carrier in (*TOPICS.values(), *PROTOCOLS.values()):
        if min(carrier.kinds) < EXTENSION_KIND_MIN:
            assert set(carrier.listeners) <= set(ROLES)


def test_names_say_the_chain_and_the_version() -> None:
    assert topic_name(CHAIN, "claims") == "/rolemesh/0001020304050607/claims/1"
    assert protocol_name(CHAIN, "blob") == "/rolemesh/0001020304050607/blob/1"


@given(st.sampled_from([*TOPICS, "infer/3", oracle_topic("btc-usd"), "a/b/c"]))
def test_names_read_back(short: str) -> None:
    assert parse_name(CHAIN, topic_name(CHAIN, short)) == short


@given(st.text(max_size=60))
def test_other_names_are_refused(text: str) -> None:
    name = topic_name(CHAIN, "claims")
    for wrong in (text, text + name, name + text, topic_name(bytes(8), "claims"), name.replace("claims", text, 1)):
        try:
            short = parse_name(CHAIN, wrong)
        except MalformedMessage:
            continue
        assert topic_name(CHAIN, short) == wrong


@pytest.mark.parametrize("short", ["", "two words", "é", "a\n", "a" * 129])
def test_short_names_are_plain(short: str) -> None:
    with pytest.raises(LocalError):
        topic_name(CHAIN, short)
    with pytest.raises(LocalError):
        topic_name(b"chain", "claims")


@given(st.binary(min_size=32, max_size=32), st.integers(0, SHARD_BITS_MAX))
def test_a_model_belongs_to_the_shard_of_its_first_bits(model: bytes, bits: int) -> None:
    shard = compute_shard(model, bits)

    assert 0 <= shard < 2**bits
    assert f"{int.from_bytes(model):0256b}"[:bits] == (f"{shard:0{bits}b}" if bits else "")
    assert infer_topic(model, bits) == f"infer/{shard}"


def test_a_shard_has_few_bits() -> None:
    for bits in (-1, SHARD_BITS_MAX + 1):
        with pytest.raises(LocalError):
            compute_shard(bytes(32), bits)
    with pytest.raises(LocalError):
        compute_shard(b"\0", 1)
