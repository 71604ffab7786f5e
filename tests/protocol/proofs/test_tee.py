"""The kinds `tee` and `tee_simulated`: each takes its own documents, for the job at hand, and no others."""

from dataclasses import replace
from pathlib import Path

import cbor2
import pytest

from protocol.errors import InvalidProof
from protocol.jobs import compute_claim_id, compute_request_id
from protocol.proofs.context import Measurement, ProofContext, Trust
from protocol.proofs.tee import TEE, TEE_SIMULATED, compute_user_data
from testnet.simulated_nitro import HOUR_MS, MEASUREMENT, make_document
from tests.support.jobs import OUTPUT, make_receipt, make_request, pay
from tests.support.ledgers import Ledger

REAL = (Path(__file__).parents[2] / "vectors" / "nitro" / "attestation.cose").read_bytes()
REAL_MS = 1_736_179_625_472
REAL_MEASUREMENT = Measurement(*[cbor2.loads(cbor2.loads(REAL)[2])["pcrs"][number] for number in range(3)])
TRUST = Trust(measurements=frozenset({MEASUREMENT, REAL_MEASUREMENT}), is_test_network=True)


def make_context(number: int = 0) -> ProofContext:
    ledger = Ledger({"validator": 1, "inference": 2, "verifier": 2, "client": 1})
    request = make_request(ledger.state, ledger.foundation, number)
    receipt = make_receipt(pay(request, ledger.foundation, b"c" * 32), ledger.node("inference-0"))
    return ProofContext(request, receipt, (OUTPUT,), request.deadline_ms, TRUST)


CONTEXT = make_context()


def make_evidence(context: ProofContext = CONTEXT, made_ms: int | None = None) -> bytes:
    claim_id = compute_claim_id(context.receipt.claim)
    user_data = compute_user_data(claim_id, context.receipt.output_digest)
    made_ms = context.at_ms - 1_000 if made_ms is None else made_ms
    return make_document(made_ms, compute_request_id(context.request), user_data)


def test_a_simulated_enclave_is_shown_as_simulated() -> None:
    shown = TEE_SIMULATED.verify(CONTEXT, make_evidence())
    assert shown.startswith("simulated, not verified hardware")


def test_each_kind_refuses_the_documents_of_the_other() -> None:
    with pytest.raises(InvalidProof, match="root that is trusted"):
        TEE.verify(CONTEXT, make_evidence())
    with pytest.raises(InvalidProof, match="root that is trusted"):
        TEE_SIMULATED.verify(replace(CONTEXT, at_ms=REAL_MS), REAL)


def test_a_real_document_without_a_nonce_gets_as_far_as_the_nonce() -> None:
    with pytest.raises(InvalidProof, match="binds nonce none"):
        TEE.verify(replace(CONTEXT, at_ms=REAL_MS), REAL)
    with pytest.raises(InvalidProof, match="lead nowhere"):
        TEE.verify(CONTEXT, REAL)


def test_outside_a_test_network_a_simulated_enclave_shows_nothing() -> None:
    for trust in (Trust(), replace(TRUST, is_test_network=False)):
        with pytest.raises(InvalidProof, match="outside a test network"):
            TEE_SIMULATED.verify(replace(CONTEXT, trust=trust), make_evidence())


def test_a_measurement_that_is_not_listed_is_refused() -> None:
    trust = Trust(measurements=frozenset({REAL_MEASUREMENT}), is_test_network=True)
    with pytest.raises(InvalidProof, match="measurement"):
        TEE_SIMULATED.verify(replace(CONTEXT, trust=trust), make_evidence())


def test_a_document_of_another_request_or_output_is_refused() -> None:
    with pytest.raises(InvalidProof, match="nonce"):
        TEE_SIMULATED.verify(CONTEXT, make_evidence(make_context(1)))
    other = replace(CONTEXT, receipt=replace(CONTEXT.receipt, output_digest=bytes(32)))
    with pytest.raises(InvalidProof, match="user data"):
        TEE_SIMULATED.verify(other, make_evidence())
    claim = replace(CONTEXT.receipt.claim, model=bytes(32))
    with pytest.raises(InvalidProof, match="user data"):
        TEE_SIMULATED.verify(replace(CONTEXT, receipt=replace(CONTEXT.receipt, claim=claim)), make_evidence())


def test_a_document_must_have_been_there_at_the_deadline_and_not_be_stale() -> None:
    for made_ms in (CONTEXT.at_ms + 120_000, CONTEXT.at_ms - 4 * HOUR_MS):
        with pytest.raises(InvalidProof):
            TEE_SIMULATED.verify(CONTEXT, make_evidence(made_ms=made_ms))
