"""A key under a passphrase: it comes back whole or not at all, and no file makes opening it cheap or dear."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from libp2p.crypto.pb import crypto_pb2

from protocol.keys import PrivateKey
from roles.sealed_key import (
    INSECURE_DEV,
    SEALED,
    CannotOpen,
    Label,
    WrongPassphrase,
    open_key,
    pack_libp2p,
    read_label,
    seal_key,
    unpack_libp2p,
)

KEY = PrivateKey.from_seed(bytes(range(32)))
LABEL = Label("account", INSECURE_DEV, "63", KEY.public)
PASSPHRASE = "correct horse"


def seal(passphrase=PASSPHRASE, label=LABEL, key=KEY):
    return json.loads(seal_key(key, label, passphrase, salt=bytes(32), nonce=bytes(12)))


@settings(max_examples=4, deadline=None)
@given(st.binary(min_size=32, max_size=32), st.text(min_size=1, max_size=40))
def test_any_key_comes_back_under_any_passphrase(seed, passphrase):
    key = PrivateKey.from_seed(seed)
    fields = seal(passphrase, Label("vote", INSECURE_DEV, "", key.public), key)

    assert open_key(fields, passphrase).seed == seed
    assert read_label(fields).public == key.public


def test_the_same_letters_typed_as_other_code_points_open_it():
    assert open_key(seal("caf\u00e9"), "cafe\u0301").seed == KEY.seed


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("purpose",), "vote"),
        (("mark",), SEALED),
        (("chain",), "64"),
        (("public",), bytes(32).hex()),
        (("kdf", "salt"), bytes([1] * 32).hex()),
        (("cipher", "nonce"), bytes([1] * 12).hex()),
        (("sealed",), "00" * 84),
    ],
)
def test_nothing_in_the_file_can_be_changed(path, value):
    fields = seal()
    place = fields
    for name in path[:-1]:
        place = place[name]
    assert place[path[-1]] != value
    place[path[-1]] = value

    with pytest.raises(CannotOpen):
        open_key(fields, PASSPHRASE)


@pytest.mark.parametrize(
    ("mark", "n"),
    [
        (SEALED, 2**14),
        (SEALED, 2**16),
        (SEALED, 2**21),
        (SEALED, 2**40),
        (SEALED, 2**17 + 2),
        (INSECURE_DEV, 2**17),
        (INSECURE_DEV, 2),
        (INSECURE_DEV, 2.0**14),
        (INSECURE_DEV, True),
        (INSECURE_DEV, "16384"),
    ],
)
def test_the_cost_of_opening_is_bounded_before_it_is_paid(mark, n):
    fields = seal()
    fields["mark"], fields["kdf"]["n"] = mark, n

    with pytest.raises(CannotOpen, match="scrypt's n must be a power of two"):
        open_key(fields, PASSPHRASE)


@pytest.mark.parametrize("name", ["r", "p"])
def test_other_parameters_of_scrypt_are_refused(name):
    fields = seal()
    fields["kdf"][name] = 2**20

    with pytest.raises(CannotOpen, match="r and p"):
        open_key(fields, PASSPHRASE)


@pytest.mark.parametrize("name", ["format", "purpose", "mark", "chain", "public", "kdf", "cipher", "sealed"])
@pytest.mark.parametrize("value", [None, 7, "", [], {}])
def test_a_field_of_another_kind_is_refused(name, value):
    fields = seal()
    fields[name] = value

    with pytest.raises(CannotOpen):
        open_key(fields, PASSPHRASE)


@pytest.mark.parametrize("change", [{"more": 1}, {"sealed": ...}])
def test_a_field_too_many_or_too_few_is_refused(change):
    fields = seal()
    for name, value in change.items():
        fields.pop(name) if value is ... else fields.update({name: value})

    with pytest.raises(CannotOpen, match="no sealed key of format"):
        open_key(fields, PASSPHRASE)


def test_another_passphrase_is_told_from_a_damaged_parameter():
    with pytest.raises(WrongPassphrase):
        open_key(seal(), "wrong horse")


def test_a_key_packed_for_libp2p_is_its_message_with_the_seed_and_the_public_key():
    theirs = crypto_pb2.PrivateKey.FromString(pack_libp2p(KEY))

    # Source: libp2p's specification of peer ids; py-libp2p 0.8.1 itself writes the seed alone, others do not.
    assert (theirs.key_type, theirs.data) == (crypto_pb2.KeyType.Ed25519, KEY.seed + KEY.public)
    assert unpack_libp2p(pack_libp2p(KEY)).seed == KEY.seed


@pytest.mark.parametrize("data", [b"", b"\x08\x01\x12\x40", pack_libp2p(KEY)[:-1], pack_libp2p(KEY) + b"\0"])
def test_what_is_no_libp2p_key_is_refused(data):
    with pytest.raises(CannotOpen, match="no Ed25519 key"):
        unpack_libp2p(data)


def test_halves_that_do_not_belong_together_are_refused():
    with pytest.raises(CannotOpen, match="belong together"):
        unpack_libp2p(pack_libp2p(KEY)[:-32] + bytes(32))
