"""Signed statements: what a signature covers, and what it does not stand under."""

import dataclasses
from dataclasses import dataclass
from typing import Annotated, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import BadSignature, LocalError
from protocol.jobs import (
    Claim,
    InferenceRequest,
    compute_attestation,
    compute_claim_id,
    compute_commitment,
    compute_request_id,
)
from protocol.keys import PrivateKey
from protocol.signing import compute_signing_bytes, sign, verify_signed
from protocol.types import AtMost, Signature, Whole
from tests.support.from_types import find_all_types, make_sample, values_of

KEY = PrivateKey.from_seed(bytes(32))
OTHER = PrivateKey.from_seed(bytes((1,)) * 32)


# Every signed statement there is, the ledger's too.
SIGNED = [cls for cls in find_all_types() if hasattr(cls, "DOMAIN") and dataclasses.fields(cls)[-1].name == "signature"]


@dataclass(frozen=True)
class Promise:
    DOMAIN: ClassVar[str] = "promise"

    amount: Whole
    note: Annotated[str, AtMost(20)]
    signature: Signature


@dataclass(frozen=True)
class Threat:
    DOMAIN: ClassVar[str] = "threat"

    amount: Whole
    note: Annotated[str, AtMost(20)]
    signature: Signature


@given(values_of(Promise))
def test_a_signed_statement_holds_for_its_signer_alone(promise: Promise) -> None:
    signed = sign(promise, KEY)

    verify_signed(signed, KEY.public)
    with pytest.raises(BadSignature):
        verify_signed(signed, OTHER.public)
    with pytest.raises(BadSignature):
        verify_signed(promise, KEY.public)


def test_a_signature_does_not_stand_under_another_type_of_statement() -> None:
    signed = sign(Promise(1, "note", bytes(64)), KEY)

    with pytest.raises(BadSignature):
        verify_signed(Threat(1, "note", signed.signature), KEY.public)


def test_the_signature_is_not_part_of_what_is_signed() -> None:
    one, other = Promise(1, "", bytes(64)), Promise(1, "", bytes((1,)) * 64)

    assert compute_signing_bytes(one) == compute_signing_bytes(other)
    assert sign(one, KEY) == sign(other, KEY)
    assert compute_signing_bytes(one).startswith(b"rolemesh/v1/promise\0")
    assert len(compute_signing_bytes(one)) == len(b"rolemesh/v1/promise\0") + 32


@pytest.mark.parametrize("cls", SIGNED)
@given(data=st.data())
def test_any_changed_field_breaks_the_signature(cls: type, data: st.DataObject) -> None:
    signed = sign(make_sample(cls, is_full=True), KEY)
    name = data.draw(st.sampled_from([field.name for field in dataclasses.fields(cls)]))
    value = getattr(data.draw(values_of(cls)), name)
    changed = dataclasses.replace(signed, **{name: value})

    if changed == signed:
        verify_signed(changed, KEY.public)
    else:
        with pytest.raises(BadSignature):
            verify_signed(changed, KEY.public)


def test_the_statements_of_jobs_and_ledger_are_among_those_tried() -> None:
    assert {"Voucher", "Claim", "Attestation", "Transaction"} <= {cls.__name__ for cls in SIGNED}


@given(data=st.data())
def test_any_changed_field_changes_the_id_of_a_request(data: st.DataObject) -> None:
    request = make_sample(InferenceRequest, is_full=True)
    name = data.draw(st.sampled_from([field.name for field in dataclasses.fields(InferenceRequest)]))
    changed = dataclasses.replace(request, **{name: getattr(data.draw(values_of(InferenceRequest)), name)})

    assert (compute_request_id(changed) == compute_request_id(request)) is (changed == request)


def test_a_claim_has_one_id_whoever_signed_it() -> None:
    claim = make_sample(Claim, is_full=True)

    assert compute_claim_id(sign(claim, KEY)) == compute_claim_id(sign(claim, OTHER))


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_commitments_and_attestations_fit_one_opening(first: bytes, second: bytes, third: bytes) -> None:
    assert (compute_commitment(first, second) == compute_commitment(first, third)) is (second == third)
    assert (compute_attestation(first, second, third) == compute_attestation(first, third, third)) is (second == third)


@dataclass(frozen=True)
class Nameless:
    amount: Whole
    signature: Signature


@dataclass(frozen=True)
class Disguised(Nameless):
    DOMAIN: ClassVar[str] = "envelope/0101"


@dataclass(frozen=True)
class Misplaced:
    DOMAIN: ClassVar[str] = "misplaced"

    signature: Signature
    amount: Whole


@dataclass(frozen=True)
class Split(Nameless):
    DOMAIN: ClassVar[str] = "split\0domain"


@pytest.mark.parametrize("cls", [Nameless, Disguised, Misplaced, Split])
def test_a_statement_without_a_domain_or_a_last_signature_cannot_be_signed(cls: type) -> None:
    with pytest.raises(LocalError):
        sign(make_sample(cls, is_full=False), KEY)
