"""The record phase of Noise: whole buffers in, whole buffers out, and nothing the key did not seal."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from noise.connection import NoiseConnection

from p2p.noise_records import NONCE_END, PLAINTEXT_BYTES_MAX, BadRecord, KeyWornOut, Opener, Sealer
from tests.support.examples import scale

KEY = bytes(range(32))


def finished_handshake() -> tuple[NoiseConnection, NoiseConnection]:
    """Both ends of a handshake by the library that py-libp2p uses."""
    ends = [NoiseConnection.from_name(b"Noise_NN_25519_ChaChaPoly_SHA256") for _ in range(2)]
    ends[0].set_as_initiator()
    ends[1].set_as_responder()
    for end in ends:
        end.start_handshake()
    ends[1].read_message(ends[0].write_message())
    ends[0].read_message(ends[1].write_message())
    return ends[0], ends[1]


@settings(max_examples=scale(40), deadline=None)
@given(st.lists(st.integers(0, 200_000), max_size=6), st.lists(st.integers(200, 70_000), min_size=1))
def test_whatever_is_sealed_is_opened_in_order_however_it_is_cut(sizes, cuts):
    plain = [bytes([index % 251]) * size for index, size in enumerate(sizes)]
    sealer, opener = Sealer(KEY), Opener(KEY)
    wire = b"".join(sealer.seal(data) for data in plain)

    opened, at, turn = b"", 0, 0
    while at < len(wire):
        opened += b"".join(opener.receive(wire[at : at + cuts[turn % len(cuts)]]))
        at += cuts[turn % len(cuts)]
        turn += 1

    assert opened == b"".join(plain)
    assert opener.nonce == sealer.nonce


@settings(max_examples=scale(20), deadline=None)
@given(st.lists(st.integers(0, 150_000), max_size=5))
def test_pieces_sealed_together_are_those_sealed_apart(sizes):
    pieces = [bytes([index % 251]) * size for index, size in enumerate(sizes)]
    apart = Sealer(KEY)
    assert Sealer(KEY).seal(*pieces) == b"".join(apart.seal(piece) for piece in pieces)


def test_a_byte_at_a_time_is_enough():
    opener = Opener(KEY)
    wire = Sealer(KEY).seal(b"slow")
    assert [opener.receive(wire[at : at + 1]) for at in range(len(wire))] == [[]] * 21 + [[b"slow"]]


def test_records_are_those_of_the_handshakes_own_library():
    ours, theirs = finished_handshake()
    protocol = ours.noise_protocol
    sealer = Sealer(protocol.cipher_state_encrypt.k, protocol.cipher_state_encrypt.n)
    opener = Opener(protocol.cipher_state_decrypt.k, protocol.cipher_state_decrypt.n)

    for text in (b"one", b"two", b"x" * PLAINTEXT_BYTES_MAX):
        record = sealer.seal(text)
        assert theirs.decrypt(bytes(record[2:])) == text
        answer = theirs.encrypt(text)
        assert opener.receive(len(answer).to_bytes(2, "big") + answer) == [text]


def test_a_byte_more_than_a_record_holds_makes_two():
    assert len(Sealer(KEY).seal(bytes(PLAINTEXT_BYTES_MAX))) == 65_537
    assert len(Sealer(KEY).seal(bytes(PLAINTEXT_BYTES_MAX + 1))) == 65_537 + 2 + 16 + 1


def test_nothing_to_say_is_no_record():
    assert Sealer(KEY).seal(b"") == b""


@given(st.binary(max_size=300), st.integers(0, 400))
def test_junk_ends_in_our_own_error_or_waits_for_more(junk, size):
    try:
        assert Opener(KEY).receive(size.to_bytes(2, "big") + junk) == []
    except BadRecord:
        assert size < 16 or len(junk) >= size


@pytest.mark.parametrize("fault", [0, 5, 20])
def test_a_changed_bit_a_repeat_and_a_gap_are_refused(fault):
    sealer = Sealer(KEY)
    first, second = sealer.seal(b"first"), sealer.seal(b"second")
    changed = bytearray(first)
    changed[2 + fault] ^= 1

    for wire in (bytes(changed), first + first, second):
        with pytest.raises(BadRecord):
            Opener(KEY).receive(wire)


def test_the_last_nonce_is_never_used():
    sealer = Sealer(KEY, NONCE_END - 1)
    last = sealer.seal(b"last")

    with pytest.raises(KeyWornOut):
        sealer.seal(b"one too many")

    opener = Opener(KEY, NONCE_END - 1)
    assert opener.receive(last) == [b"last"]
    with pytest.raises(BadRecord):
        opener.receive(last)


def test_a_refused_buffer_uses_no_nonce_up():
    sealer = Sealer(KEY, NONCE_END - 1)

    with pytest.raises(KeyWornOut):
        sealer.seal(bytes(PLAINTEXT_BYTES_MAX + 1))

    assert Opener(KEY, NONCE_END - 1).receive(sealer.seal(b"fits")) == [b"fits"]
