"""Attested work of calibrated float models: a verifier that shows outputs near the worker's stands for them too."""

from dataclasses import replace

import pytest

from protocol.errors import RemoteError
from protocol.jobs import SHOWN_BYTES_MAX, Attestation, compute_attestation, compute_claim_id
from protocol.ledger.job_errors import InvalidLeaf
from protocol.ledger.params import Params
from protocol.ledger.settlement import SettledLeaf
from protocol.ledger.transactions import Work
from protocol.proofs.bounds import may_be_shown, read_shown
from protocol.proofs.receipt_file import VERSION, ReceiptFile, verify_receipt_file
from protocol.signing import sign
from protocol.tensor import Tensor, compute_tensors_digest, encode_tensors
from tests.protocol.ledger.test_float_checks import FAR, NEAR, SAID, calibrate
from tests.support.jobs import PRICE, attest, find_model, make_receipt, make_request, pay
from tests.support.ledgers import Ledger

ROLES = {"validator": 1, "inference": 1, "verifier": 3, "client": 1}


class Job:
    """One job whose worker says SAID and whose second verifier found and shows `found`."""

    def __init__(self, found: tuple[Tensor, ...], is_float: bool = True) -> None:
        self.ledger = Ledger(ROLES)
        self.channel = self.ledger.open_channel()
        if is_float:
            calibrate(self.ledger)
        request = make_request(self.ledger.state, self.ledger.foundation)
        item = pay(request, self.ledger.foundation, self.channel)
        receipt = make_receipt(item, self.ledger.node("inference-0"), SAID)
        first, second = attest(self.ledger.state, self.ledger.foundation, receipt, receipt.output_digest)
        self.second = self.sign_as(second, compute_tensors_digest(found), encode_tensors(found))
        claim, digest = receipt.claim, receipt.output_digest
        self.work = Work(item.voucher, claim, receipt.salt, digest, (first, self.second), SAID)
        self.file = ReceiptFile(VERSION, request, item.voucher, receipt, SAID, (first, self.second))

    def sign_as(self, item: Attestation, digest: bytes, shown: bytes) -> Attestation:
        value = compute_attestation(item.claim_id, item.verifier, digest)
        names = self.ledger.foundation.nodes
        key = next(self.ledger.node(name) for name in names if self.ledger.node(name).public == item.verifier)
        return sign(replace(item, value=value, shown=shown), key)

    def with_second(self, item: Attestation) -> Work:
        return replace(self.work, attestations=(self.work.attestations[0], item))

    def refuse(self, work: Work) -> str:
        error = self.ledger.refuse(self.ledger.account("inference-0"), self.ledger.settle(self.channel, work))
        assert isinstance(error, InvalidLeaf)
        return str(error)


def test_a_leaf_whose_verifier_shows_outputs_within_the_bound_pays_everyone() -> None:
    job = Job(NEAR)
    ledger = job.ledger
    before = ledger.state
    ledger.do(ledger.account("inference-0"), ledger.settle(job.channel, job.work))
    ledger.block(after_ms=Params().settle_window_ms)
    gained = [ledger.state.get_balance(key) - before.get_balance(key) for key in accounts_of(job)]
    assert gained == [PRICE * 400 // 10_000] * 2
    assert ledger.state.channels[job.channel].paid == PRICE


def accounts_of(job: Job) -> list[bytes]:
    candidates = job.ledger.state.epochs[job.work.claim.epoch].candidates
    owners = {item.node: item.account for item in candidates}
    return [owners[item.verifier] for item in job.work.attestations]


def test_what_lies_beyond_the_bound_or_is_not_shown_pays_nobody() -> None:
    job = Job(NEAR)
    blind = job.sign_as(job.second, compute_tensors_digest(NEAR), b"")
    others = job.sign_as(job.second, compute_tensors_digest(NEAR), encode_tensors(SAID))
    rubbish = job.sign_as(job.second, compute_tensors_digest(NEAR), b"rubbish")
    for item in (others, rubbish):
        assert "does not open to this digest" in job.refuse(job.with_second(item))
    assert "and nowhere else" in job.refuse(job.with_second(blind))
    assert "does not open" in job.refuse(replace(job.with_second(blind), outputs=()))
    assert "and nowhere else" in job.refuse(replace(job.work, outputs=()))
    assert "do not have this digest" in job.refuse(replace(job.work, outputs=NEAR))
    assert "does not open to this digest" in Job(FAR).refuse(Job(FAR).work)
    exact = Job(NEAR, is_float=False)
    assert "does not open to this digest" in exact.refuse(exact.work)


def test_an_attestation_that_was_changed_after_it_was_signed_pays_nobody() -> None:
    job = Job(NEAR)
    stolen = replace(job.second, signature=job.work.attestations[0].signature)
    body = job.ledger.settle(job.channel, job.with_second(stolen))
    assert "not signed by" in str(job.ledger.refuse(job.ledger.account("inference-0"), body))


def test_a_receipt_file_with_near_outputs_holds_where_the_ledger_says_how_near_they_must_be() -> None:
    job = Job(NEAR)
    alone = {item.level: item for item in verify_receipt_file(job.file)}
    assert not alone["attested"].is_shown
    assert "last bits" in alone["attested"].text
    shown = {item.level: item for item in verify_receipt_file(job.file, job.ledger.state)}
    assert shown["attested"].is_shown
    assert "within the model's bound" in shown["attested"].text
    claim_id = compute_claim_id(job.work.claim)
    settled = SettledLeaf(job.channel, 1, 9, bytes(32), 0, PRICE, claim_id)
    by_leaf = {item.level: item for item in verify_receipt_file(job.file, None, {(job.channel, 1): settled})}
    assert by_leaf["attested"].is_shown
    far = Job(FAR)
    with pytest.raises(RemoteError, match="not within the model's bound"):
        verify_receipt_file(far.file, far.ledger.state)
    other = job.sign_as(job.second, compute_tensors_digest(SAID), encode_tensors(NEAR))
    changed = replace(job.file, attestations=(job.file.attestations[0], other))
    with pytest.raises(RemoteError, match="not of this claim and output"):
        verify_receipt_file(changed)


def test_only_outputs_of_float_models_that_fit_are_shown() -> None:
    job = Job(NEAR)
    model = find_model(job.ledger.state)
    assert may_be_shown(model, NEAR)
    assert not may_be_shown(replace(model, exact=1), NEAR)
    large = (Tensor("float32", (1, 2_000), bytes(8_000)),)
    assert not may_be_shown(model, large)
    assert len(encode_tensors(large)) > SHOWN_BYTES_MAX
    assert read_shown(job.second) == NEAR
    assert read_shown(job.work.attestations[0]) is None
    assert job.second.claim_id == compute_claim_id(job.work.claim)
