"""Keys: one rule for signatures, whatever a library thinks of odd keys, and one way to write each key."""

import json
import pickle
import random
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.id import ID
from nacl.bindings import crypto_sign_open as open_signed

from protocol import keys
from protocol.bech32 import format_bech32m, from_groups, parse_bech32m, to_groups
from protocol.errors import LocalError, MalformedMessage
from protocol.keys import (
    PrivateKey,
    format_account,
    format_node,
    is_valid_public_key,
    parse_account,
    parse_node,
    remember_good,
    verify,
)

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
ORDER_8 = (
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
)
WEAK_Y = {0, 1, P - 1, *(int.from_bytes(bytes.fromhex(text), "little") for text in ORDER_8)}
# Every encoding of the eight points of small order: y, y + p where that fits, each with both signs.
WEAK_KEYS = tuple((y | sign << 255).to_bytes(32, "little") for y in (*WEAK_Y, P, P + 1) for sign in (0, 1))
SPECCHECK = json.loads((Path(__file__).parents[1] / "vectors" / "ed25519_speccheck.json").read_text())
# Source: RFC 8032, section 7.1, tests 1 to 3: seed, public key, message, signature.
RFC_8032 = (
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
        "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
        "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
)
KEY = PrivateKey.from_seed(bytes(range(32)))


def verify_otherwise(public: bytes, data: bytes, signature: bytes) -> bool:
    """The same rule on another library: OpenSSL behind a filter for odd points."""
    for point in (public, signature[:32]):
        y = int.from_bytes(point, "little") & (2**255 - 1)
        if len(point) != 32 or y >= P or y in WEAK_Y:
            return False
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, data)
    except (InvalidSignature, ValueError):
        return False
    return True


@pytest.mark.parametrize(("seed", "public", "message", "signature"), RFC_8032)
def test_the_vectors_of_the_rfc_hold(seed: str, public: str, message: str, signature: str) -> None:
    key = PrivateKey.from_seed(bytes.fromhex(seed))

    assert key.public.hex() == public
    assert key.sign(bytes.fromhex(message)).hex() == signature
    assert verify(key.public, bytes.fromhex(message), bytes.fromhex(signature))
    assert not verify(key.public, bytes.fromhex(message) + b"x", bytes.fromhex(signature))


def test_of_the_twelve_disputed_signatures_one_is_accepted() -> None:
    cases = [
        tuple(bytes.fromhex(case[name]) for name in ("public", "message", "signature")) for case in SPECCHECK["cases"]
    ]

    assert len(cases) == 12
    assert [index for index, case in enumerate(cases) if verify(*case)] == [3]
    assert [index for index, case in enumerate(cases) if verify_otherwise(*case)] == [3]


def test_a_weak_key_signs_nothing_and_cannot_be_registered() -> None:
    assert len(WEAK_KEYS) == 14
    for public in WEAK_KEYS:
        assert not is_valid_public_key(public)
        for number in range(64):
            message = number.to_bytes(8)
            for signature in (public + bytes(32), (1).to_bytes(32, "little") + bytes(32)):
                assert not verify(public, message, signature)


def test_keys_that_may_be_registered_are_points_of_the_main_group() -> None:
    mixed = bytes.fromhex(SPECCHECK["cases"][3]["public"])
    no_point = next(key for key in (bytes((n,)) + bytes(31) for n in range(2, 256)) if not is_valid_public_key(key))

    assert is_valid_public_key(KEY.public)
    assert not is_valid_public_key(mixed)  # honest key plus a point of small order
    assert not verify(no_point, b"", bytes(64))
    for wrong in (b"", KEY.public[:-1], KEY.public + b"\0", KEY.public.hex(), None):
        assert not is_valid_public_key(wrong)  # type: ignore[arg-type]


@given(st.binary(max_size=200), st.data())
def test_two_libraries_agree_on_honest_and_on_damaged_signatures(message: bytes, data: st.DataObject) -> None:
    signature = bytearray(KEY.sign(message))
    public = bytearray(KEY.public)
    for damaged in (signature, public):
        for _ in range(data.draw(st.integers(0, 2))):
            damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(0, 255))
    is_honest = bytes(signature) == KEY.sign(message) and bytes(public) == KEY.public

    assert verify(bytes(public), message, bytes(signature)) is verify_otherwise(
        bytes(public), message, bytes(signature)
    )
    assert verify(bytes(public), message, bytes(signature)) is is_honest


def test_a_signature_has_one_form() -> None:
    signature = KEY.sign(b"data")
    larger = int.from_bytes(signature[32:], "little") + ORDER

    assert not verify(KEY.public, b"data", signature[:32] + larger.to_bytes(32, "little"))


@pytest.mark.parametrize("wrong", [b"", bytes(31), bytes(63), bytes(65), bytes(1000), None, "text", 5, bytearray(64)])
def test_verify_never_raises(wrong: Any) -> None:
    assert not verify(wrong, b"data", KEY.sign(b"data"))
    assert not verify(KEY.public, b"data", wrong)
    if type(wrong) is not bytes:
        assert not verify(KEY.public, wrong, KEY.sign(b"data"))


def test_a_private_key_does_not_show_its_seed() -> None:
    for text in (repr(KEY), str(KEY), f"{KEY}", f"{KEY!r}"):
        assert KEY.seed.hex() not in text
        assert KEY.public.hex() in text
    assert not hasattr(KEY, "__dict__")
    with pytest.raises(LocalError):
        pickle.dumps(KEY)
    for wrong in (b"", bytes(31), bytes(64), "0" * 32):
        with pytest.raises(LocalError):
            PrivateKey.from_seed(wrong)  # type: ignore[arg-type]


@given(st.binary(min_size=32, max_size=32))
def test_keys_survive_being_written_and_read(public: bytes) -> None:
    assert parse_node(format_node(public)) == public
    assert parse_account(format_account(public)) == public
    assert format_node(public).startswith("12D3Koo")
    assert len(format_account(public)) == 61


def test_a_node_is_written_as_libp2p_writes_it() -> None:
    for seed in range(8):
        key = PrivateKey.from_seed(bytes((seed,)) * 32)
        theirs = ID.from_pubkey(create_new_key_pair(key.seed).public_key)
        assert format_node(key.public) == theirs.to_base58()


@given(st.integers(0, 60), st.characters(min_codepoint=33, max_codepoint=126))
def test_a_wrong_letter_in_an_account_is_noticed(position: int, letter: str) -> None:
    text = format_account(KEY.public)
    wrong = text[:position] + letter + text[position + 1 :]

    if wrong != text:
        with pytest.raises(MalformedMessage):
            parse_account(wrong)


def test_nodes_and_accounts_are_not_mixed_up_and_have_one_spelling() -> None:
    node, account = format_node(KEY.public), format_account(KEY.public)
    for text in (
        account,
        "",
        " " + node,
        node + " ",
        node + "\n",
        node[:-1],
        node + "1",
        "1" + node,
        "0",
        "é",
        "1" * 10**6,
    ):
        with pytest.raises(MalformedMessage):
            parse_node(text)
    for text in (
        node,
        "",
        account.upper(),
        account.title(),
        account + "q",
        account[:-1],
        "rm1",
        " " + account,
        "é" * 61,
    ):
        with pytest.raises(MalformedMessage):
            parse_account(text)
    for size in (31, 33):
        with pytest.raises(MalformedMessage, match=f"{size} bytes"):
            parse_account(format_bech32m("rm", to_groups(bytes(size))))
    with pytest.raises(MalformedMessage, match="begin with rm1"):
        parse_account(format_bech32m("bc", to_groups(KEY.public)))
    with pytest.raises(LocalError):
        format_node(bytes(31))


# Source: BIP-350, test vectors for bech32m.
@pytest.mark.parametrize(
    "text",
    [
        "A1LQFN3A",
        "a1lqfn3a",
        "an83characterlonghumanreadablepartthatcontainsthetheexcludedcharactersbioandnumber11sg7hg6",
        "abcdef1l7aum6echk45nj3s0wdvt2fg8x9yrzpqzd3ryx",
        "11" + "l" * 82 + "ludsr8",
        "split1checkupstagehandshakeupstreamerranterredcaperredlc445v",
        "?1v759aa",
    ],
)
def test_valid_bech32m_is_read_and_written_back(text: str) -> None:
    assert format_bech32m(*parse_bech32m(text)) == text.lower()


@pytest.mark.parametrize(
    "text",
    [
        " 1xj0phk",
        "\x7f1g6xzxy",
        "\x801vctc34",
        "an84characterslonghumanreadablepartthatcontainsthetheexcludedcharactersbioandnumber11d6pts4",
        "qyrz8wqd2c9m",
        "1qyrz8wqd2c9m",
        "y1b0jsk6g",
        "lt1igcx5c0",
        "in1muywd",
        "mm1crxm3i",
        "au1s5cgom",
        "M1VUXWEZ",
        "16plkw9",
        "1p2gdwpf",
        "A12UEL5L",  # bech32, the older checksum
    ],
)
def test_invalid_bech32m_is_refused(text: str) -> None:
    with pytest.raises(MalformedMessage):
        parse_bech32m(text)


@given(st.binary(max_size=40), st.lists(st.integers(0, 31), max_size=60).map(tuple))
def test_groups_of_five_bits_and_bytes_stand_for_each_other(data: bytes, groups: tuple[int, ...]) -> None:
    assert from_groups(to_groups(data)) == data
    try:
        read = from_groups(groups)
    except MalformedMessage:
        return
    assert to_groups(read) == groups


@pytest.mark.parametrize("groups", [(0,), (0, 1), (0, 0, 0), (31, 31)])
def test_groups_with_other_padding_are_refused(groups: tuple[int, ...]) -> None:
    with pytest.raises(MalformedMessage, match="padding"):
        from_groups(groups)


def test_random_text_is_no_key() -> None:
    rng = random.Random(7)
    for _ in range(500):
        text = "".join(
            chr(rng.choice((rng.randrange(32, 127), rng.randrange(0x110000)))) for _ in range(rng.randrange(70))
        )
        for parse in (parse_node, parse_account):
            with pytest.raises(MalformedMessage):
                parse(text)


def test_what_is_remembered_as_good_is_the_key_the_data_and_the_signature_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keys, "_good", set())
    monkeypatch.setattr(keys, "_good_max", 0)
    remember_good(3)
    key, other = PrivateKey.from_seed(bytes(32)), PrivateKey.from_seed(bytes(31) + b"1")
    signature = key.sign(b"data")
    opened = []
    monkeypatch.setattr(keys.bindings, "crypto_sign_open", lambda *given: opened.append(given) or open_signed(*given))

    assert verify(key.public, b"data", signature)
    assert not opened, "whoever signs here need not be verified here"
    for _ in range(2):
        assert not verify(key.public, b"date", signature)
        assert not verify(other.public, b"data", signature)
        assert not verify(key.public, b"data", other.sign(b"data"))
        assert not verify(key.public, signature[-1:] + b"data", signature[:-1])
    assert len(opened) == 6, "what is bad is found bad each time"
    signatures = [PrivateKey.sign(key, bytes((number,))) for number in range(10)]
    assert len(keys._good) <= 3
    assert all(verify(key.public, bytes((number,)), each) for number, each in enumerate(signatures))
    assert len(keys._good) <= 3
