"""Attestation documents: a real one holds on its own day, and nothing changed, stale or foreign ever does."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import InvalidProof
from protocol.proofs.certificates import TIME_MS_MAX
from protocol.proofs.context import Measurement
from protocol.proofs.nitro import DOCUMENT_BYTES_MAX, verify_document, verify_nitro
from protocol.proofs.tee import AWS_ROOT, SIMULATED_ROOT
from testnet.simulated_nitro import (
    HOUR_MS,
    MEASUREMENT,
    Link,
    make_chain,
    make_document,
    make_key,
    make_link,
    make_payload,
    make_root,
    sign_payload,
)
from tests.support.examples import scale

REAL = (Path(__file__).parents[2] / "vectors" / "nitro" / "attestation.cose").read_bytes()
REAL_MS = 1_736_179_625_472
REAL_MEASUREMENT = Measurement(*[cbor2.loads(cbor2.loads(REAL)[2])["pcrs"][number] for number in range(3)])
LATER_MS = 1_796_000_000_000  # November 2026: when this was written
NOW_MS = 1_800_000_000_000
NONCE, BOUND = b"n" * 32, b"u" * 32
PCRS = {0: MEASUREMENT.pcr0, 1: MEASUREMENT.pcr1, 2: MEASUREMENT.pcr2}


def verify_made(document: bytes, at_ms: int = NOW_MS) -> None:
    verify_nitro(document, at_ms, SIMULATED_ROOT, frozenset({MEASUREMENT}), NONCE, BOUND)


def make(chain: tuple[Link, ...] | None = None, changes: Mapping[object, object] = MappingProxyType({})) -> bytes:
    """A document that is right but for its chain or fields."""
    links = make_chain(NOW_MS) if chain is None else chain
    payload = make_payload(links, NOW_MS, PCRS, NONCE, BOUND) | changes
    return sign_payload(cbor2.dumps(payload), links[-1].key)


def test_a_real_document_holds_at_its_own_time() -> None:
    attested = verify_document(REAL, REAL_MS, AWS_ROOT)

    assert attested.module == "i-0bee92034f3d60691-enc01943c5eaab3ad6a"
    assert attested.timestamp_ms == REAL_MS
    assert attested.measurement == REAL_MEASUREMENT
    assert [number for number, value in attested.pcrs if value.strip(b"\0")] == [0, 1, 2, 3, 4]
    assert (attested.nonce, attested.user_data) == (b"", b"")


def test_the_pinned_root_is_the_one_that_aws_publishes() -> None:
    published = "641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b"
    assert hashlib.sha256(AWS_ROOT).hexdigest() == published
    assert make_root().der == SIMULATED_ROOT != AWS_ROOT


@pytest.mark.parametrize("at_ms", [0, REAL_MS - HOUR_MS, REAL_MS + 4 * HOUR_MS, LATER_MS, TIME_MS_MAX, 2**63 - 1, -1])
def test_a_real_document_fails_at_any_other_time(at_ms: int) -> None:
    with pytest.raises(InvalidProof):
        verify_document(REAL, at_ms, AWS_ROOT)


def test_a_real_document_fails_under_another_root() -> None:
    with pytest.raises(InvalidProof, match="root that is trusted"):
        verify_document(REAL, REAL_MS, SIMULATED_ROOT)


def test_a_real_document_fails_for_another_measurement_and_binds_no_job() -> None:
    other = Measurement(REAL_MEASUREMENT.pcr0, REAL_MEASUREMENT.pcr1, bytes(47) + b"\1")
    for listed in (frozenset(), frozenset({other})):
        with pytest.raises(InvalidProof, match="measurement is not on the list"):
            verify_nitro(REAL, REAL_MS, AWS_ROOT, listed, NONCE, BOUND)
    for nonce in (NONCE, b""):
        with pytest.raises(InvalidProof, match="binds nonce none"):
            verify_nitro(REAL, REAL_MS, AWS_ROOT, frozenset({REAL_MEASUREMENT}), nonce, BOUND)


@pytest.mark.parametrize("step", [23, pytest.param(1, marks=pytest.mark.full)])
def test_any_flipped_bit_of_a_real_document_is_refused(step: int) -> None:
    for place in (*range(200), *range(200, len(REAL) - 200, step), *range(len(REAL) - 200, len(REAL))):
        changed = bytearray(REAL)
        changed[place] ^= 1 << (place % 8)
        with pytest.raises(InvalidProof):
            verify_document(bytes(changed), REAL_MS, AWS_ROOT)


def test_a_flip_in_each_region_is_refused_even_when_the_payload_is_signed_anew() -> None:
    """The signature protects certificates too. Here the signer helps, so that each certificate stands for itself."""
    chain = make_chain(NOW_MS)
    verify_made(make(chain))
    for changes in (
        {"certificate": _flip(chain[-1].der)},
        {"cabundle": [_flip(chain[0].der), chain[1].der]},
        {"cabundle": [chain[0].der, _flip(chain[1].der)]},
    ):
        with pytest.raises(InvalidProof):
            verify_made(make(chain, changes))
    parts = cbor2.loads(make(chain))
    for index, match in ((0, "headers"), (2, None), (3, "signature")):
        changed = [*parts[:index], _flip(parts[index]), *parts[index + 1 :]]
        with pytest.raises(InvalidProof, match=match):
            verify_made(cbor2.dumps(changed))


def _flip(data: bytes) -> bytes:
    return data[:-2] + bytes((data[-2] ^ 1,)) + data[-1:]


def test_a_document_of_our_own_holds_for_three_hours() -> None:
    document = make_document(NOW_MS, NONCE, BOUND)
    for at_ms in (NOW_MS, NOW_MS + 3 * HOUR_MS):
        verify_made(document, at_ms)
    for at_ms in (NOW_MS - 2_000, NOW_MS + 3 * HOUR_MS + 1_000):
        with pytest.raises(InvalidProof, match="lead nowhere"):
            verify_made(document, at_ms)


def test_what_a_document_binds_must_be_what_is_asked() -> None:
    with pytest.raises(InvalidProof, match="nonce"):
        verify_made(make_document(NOW_MS, b"x" * 32, BOUND))
    with pytest.raises(InvalidProof, match="user data"):
        verify_made(make_document(NOW_MS, NONCE, b"x" * 32))
    with pytest.raises(InvalidProof, match="nonce none"):
        verify_made(make_document(NOW_MS, None, BOUND))
    with pytest.raises(InvalidProof, match="user data none"):
        verify_made(make_document(NOW_MS, NONCE, None))
    other = Measurement(MEASUREMENT.pcr0, MEASUREMENT.pcr2, MEASUREMENT.pcr1)
    with pytest.raises(InvalidProof, match="measurement"):
        verify_made(make_document(NOW_MS, NONCE, BOUND, other))


def test_a_document_that_binds_nothing_is_never_what_is_asked() -> None:
    empty = make_document(NOW_MS, b"", b"")
    with pytest.raises(InvalidProof, match="nonce"):
        verify_nitro(empty, NOW_MS, SIMULATED_ROOT, frozenset({MEASUREMENT}), b"", b"")


def test_an_enclave_in_debug_mode_is_refused_even_when_its_zeros_are_listed() -> None:
    zeros = Measurement(bytes(48), bytes(48), bytes(48))
    for pcrs in ({}, {0: MEASUREMENT.pcr0}, {0: MEASUREMENT.pcr0, 1: MEASUREMENT.pcr1}):
        document = make(changes={"pcrs": pcrs})
        listed = frozenset({zeros, Measurement(*[pcrs.get(number, bytes(48)) for number in range(3)])})
        with pytest.raises(InvalidProof, match="debug mode"):
            verify_nitro(document, NOW_MS, SIMULATED_ROOT, listed, NONCE, BOUND)


START, END = NOW_MS - HOUR_MS, NOW_MS + HOUR_MS
ROOT = make_root()


def _chain(*below: dict[str, object]) -> tuple[Link, ...]:
    links = [ROOT]
    for number, options in enumerate(below):
        links.append(make_link(f"link {number}", links[-1], START, END, **options))  # type: ignore[arg-type]
    return tuple(links)


LEAF: dict[str, object] = {"is_ca": False}
CHAINS = {
    "a leaf that is an authority": _chain({}, {"signs": True}),
    "a leaf of a leaf": _chain(LEAF, LEAF),
    "a leaf of what is no authority but may sign certificates": _chain(LEAF | {"certifies": True}, LEAF),
    "a path too long for its authority": _chain({"path_length": 0}, {}, LEAF),
    "an authority that may not sign certificates": _chain({"certifies": False}, LEAF),
    "a leaf that may not sign": _chain({}, LEAF | {"signs": False}),
    "an authority of yesterday": (
        ROOT,
        *(old := (make_link("old", ROOT, START, NOW_MS - 10_000),)),
        make_link("leaf", old[0], START, END, is_ca=False),
    ),
    "an authority of tomorrow": (
        ROOT,
        *(new := (make_link("new", ROOT, NOW_MS + 10_000, END),)),
        make_link("leaf", new[0], START, END, is_ca=False),
    ),
    "a chain longer than any": _chain(*[{}] * 9, LEAF),
    "the root alone": (ROOT,),
}


@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_is_refused_that_has(name: str) -> None:
    with pytest.raises(InvalidProof):
        verify_made(make(CHAINS[name]))


def test_chains_like_those_hold_when_nothing_is_wrong_with_them() -> None:
    for chain in (_chain(LEAF), _chain({}, LEAF), _chain({"path_length": 1}, {"path_length": 0}, LEAF)):
        verify_made(make(chain))


def test_a_chain_of_another_root_is_refused_whatever_it_claims() -> None:
    impostor = make_link("rolemesh simulated enclaves, no hardware but another key", None, START, END)
    chain = make_chain(NOW_MS, impostor)
    for bundle in ([link.der for link in chain[:-1]], [ROOT.der, chain[1].der], [ROOT.der], [chain[1].der], []):
        with pytest.raises(InvalidProof):
            verify_made(make(chain, {"cabundle": bundle}))


def test_a_bundle_is_refused_that_is_out_of_order_or_holds_more_than_its_chain() -> None:
    chain = _chain({}, {}, LEAF)
    ders = [link.der for link in chain[:-1]]
    for bundle in ([ders[0], ders[2], ders[1]], [*ders, ders[1]], [*ders, make_link("x", ROOT, START, END).der]):
        with pytest.raises(InvalidProof, match="order"):
            verify_made(make(chain, {"cabundle": bundle}))


def test_another_curve_than_the_one_of_es384_is_refused() -> None:
    small = ec.derive_private_key(12345, ec.SECP256R1())
    top = make_chain(NOW_MS)[1]
    builder = x509.CertificateBuilder(
        top.certificate.subject, x509.Name([]), small.public_key(), 5, _date(START), _date(END),
        [*make_link("leaf", top, START, END, is_ca=False).certificate.extensions][:2],
    )  # fmt: skip
    leaf = Link(builder.sign(top.key, hashes.SHA384()), make_key("leaf"))
    with pytest.raises(InvalidProof, match=r"P-384|lead nowhere"):
        verify_made(make((*make_chain(NOW_MS)[:2], leaf)))


def _date(time_ms: int) -> object:
    moment = ROOT.certificate.not_valid_before_utc
    return moment.fromtimestamp(time_ms // 1000, moment.tzinfo)


CHANGES: dict[str, dict[object, object]] = {
    "another digest": {"digest": "SHA256"},
    "a field too many": {"more": 1},
    "a field that is no text": {5: 1},
    "a module that makes the document too large": {"module_id": "m" * DOCUMENT_BYTES_MAX},
    "no module": {"module_id": None},
    "a timestamp of text": {"timestamp": "now"},
    "a negative timestamp": {"timestamp": -1},
    "a timestamp past all time": {"timestamp": 2**64 - 1},
    "a timestamp that is true": {"timestamp": True},
    "a timestamp before its leaf": {"timestamp": NOW_MS - 2_000},
    "a timestamp after the time asked": {"timestamp": NOW_MS + 61_000},
    "PCRs in a list": {"pcrs": [bytes(48)] * 3},
    "a short PCR": {"pcrs": PCRS | {5: b"x" * 32}},
    "a PCR of SHA-512": {"pcrs": PCRS | {5: b"x" * 64}},
    "a long public key": {"public_key": bytes(1025)},
    "a PCR 32": {"pcrs": PCRS | {32: bytes(48)}},
    "a PCR by name": {"pcrs": PCRS | {"x": bytes(48)}},
    "a PCR that is true": {"pcrs": {False: PCRS[0], True: PCRS[1], 2: PCRS[2]}},
    "no PCR 2": {"pcrs": {0: PCRS[0], 1: PCRS[1]}},
    "a certificate that is none": {"certificate": b"x"},
    "an empty certificate": {"certificate": b""},
    "a certificate of text": {"certificate": "x"},
    "a bundle of numbers": {"cabundle": [make_root().der, 1]},
    "a long nonce": {"nonce": bytes(1025)},
    "user data of text": {"user_data": "u" * 32},
    "a nested list": {"public_key": [[[[1]]]]},
    "a float": {"timestamp": 1.5},
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_payload_is_refused_that_has(name: str) -> None:
    with pytest.raises(InvalidProof):
        verify_made(make(changes=CHANGES[name]))


def test_optional_fields_may_be_left_out() -> None:
    chain = make_chain(NOW_MS)
    payload = make_payload(chain, NOW_MS, PCRS, NONCE, BOUND)
    del payload["public_key"]
    verify_made(sign_payload(cbor2.dumps(payload), chain[-1].key))


DOCUMENT = make_document(NOW_MS, NONCE, BOUND)
PARTS = cbor2.loads(DOCUMENT)
SPELLINGS = {
    "nothing": b"",
    "a tag around it": b"\xd2" + DOCUMENT,
    "a longer length": b"\x98\x04" + DOCUMENT[1:],
    "no end": b"\x9f" + DOCUMENT[1:] + b"\xff",
    "something after it": DOCUMENT + b"\0",
    "its last byte missing": DOCUMENT[:-1],
    "a header unprotected": cbor2.dumps([PARTS[0], {4: b"x"}, *PARTS[2:]]),
    "an empty protected header": cbor2.dumps([b"", *PARTS[1:]]),
    "ES256 in its header": cbor2.dumps([cbor2.dumps({1: -7}), *PARTS[1:]]),
    "five parts": cbor2.dumps([*PARTS, b""]),
    "three parts": cbor2.dumps(PARTS[:3]),
    "a payload that is no map": sign_payload(cbor2.dumps([1]), make_chain(NOW_MS)[-1].key),
    "a signature of DER": cbor2.dumps([*PARTS[:3], PARTS[3] + b"\0"]),
    "a field twice": sign_payload(b"\xa2\x61a\x01\x61a\x01", make_chain(NOW_MS)[-1].key),
    "a huge number": b"\x84\x5b" + (2**63 - 1).to_bytes(8, "big"),
    "too much": DOCUMENT + bytes(DOCUMENT_BYTES_MAX),
    "a thousand lists": b"\x81" * 1000 + b"\0",
    "a pattern": bytes.fromhex("d8236161"),
    "mail": bytes.fromhex("d82463616263"),
    "a number with an exponent": bytes.fromhex("c4821a7fffffff03"),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_document_is_refused_that_is(name: str) -> None:
    verify_made(DOCUMENT)
    with pytest.raises(InvalidProof):
        verify_made(SPELLINGS[name])


cbor_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64)
    | st.floats()
    | st.binary(max_size=64)
    | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.integers() | st.text(max_size=9), inner, max_size=5),
    max_leaves=9,
)


@settings(max_examples=scale(200))
@given(st.binary(max_size=300) | cbor_values.map(cbor2.dumps))
def test_garbage_is_refused_and_nothing_else_happens(data: bytes) -> None:
    with pytest.raises(InvalidProof):
        verify_document(data, REAL_MS, AWS_ROOT)


@settings(max_examples=scale(200))
@given(st.sampled_from(sorted(set(make_payload(make_chain(NOW_MS), NOW_MS, PCRS, NONCE, BOUND)))), cbor_values)
def test_a_field_of_garbage_is_refused_though_the_signer_stands_by_it(name: str, value: object) -> None:
    if name in ("public_key", "module_id"):
        return  # nothing rests on these two
    with pytest.raises(InvalidProof):
        verify_made(make(changes={name: value}))


@settings(max_examples=scale(200))
@given(st.data())
def test_a_mangled_real_document_is_refused_and_nothing_else_happens(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(REAL) - 1))
    end = data.draw(st.integers(start, min(len(REAL), start + 40)))
    changed = REAL[:start] + data.draw(st.binary(max_size=40)) + REAL[end:]
    if changed == REAL:
        return
    with pytest.raises(InvalidProof):
        verify_document(changed, REAL_MS, AWS_ROOT)


@settings(max_examples=scale(200))
@given(st.integers(0, 2), st.data())
def test_a_mangled_certificate_is_refused_though_the_signer_stands_by_it(which: int, data: st.DataObject) -> None:
    chain = make_chain(NOW_MS)
    der = chain[which].der
    start = data.draw(st.integers(0, len(der) - 1))
    end = data.draw(st.integers(start, min(len(der), start + 9)))
    changed = der[:start] + data.draw(st.binary(max_size=9)) + der[end:]
    if changed == der:
        return
    ders = [link.der for link in chain]
    ders[which] = changed
    with pytest.raises(InvalidProof):
        verify_made(make(chain, {"certificate": ders[-1], "cabundle": ders[:-1]}))
