"""Receipt files: what they show, and that no byte of them can be changed."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from protocol.codec import encode
from protocol.errors import CannotCheck, InvalidProof, MalformedMessage, RemoteError
from protocol.jobs import Attestation, Mode, compute_attestation, compute_claim_id, compute_request_id
from protocol.keys import PrivateKey
from protocol.ledger.apply import decode_transactions
from protocol.ledger.settlement import collect_leaves
from protocol.ledger.transactions import Work, ZeroReason
from protocol.proofs.context import Trust
from protocol.proofs.kinds import REEXEC, SIGNED, Attestations
from protocol.proofs.receipt_file import VERSION, Backing, ReceiptFile, decode_receipt_file, verify_receipt_file
from protocol.proofs.tee import TEE, TEE_SIMULATED, compute_user_data
from protocol.registry import ProofDescription, find_proof_kind, register_proof_kind, temporary_registrations
from protocol.signing import sign
from testnet.simulated_nitro import MEASUREMENT, make_document
from tests.support.disputes import Quarrel
from tests.support.jobs import OUTPUT, attest, make_receipt, make_request, pay
from tests.support.ledgers import Ledger


class Story:
    """A ledger, a channel and the file of its first job."""

    def __init__(self, verifiers: int = 2) -> None:
        self.ledger = Ledger({"validator": 1, "inference": 2, "verifier": verifiers, "client": 1})
        self.channel = self.ledger.open_channel()
        state, foundation = self.ledger.state, self.ledger.foundation
        request = make_request(state, foundation)
        item = pay(request, foundation, self.channel)
        receipt = make_receipt(item, self.ledger.node("inference-0"))
        attestations = attest(state, foundation, receipt, receipt.output_digest)
        self.file = ReceiptFile(VERSION, request, item.voucher, receipt, (OUTPUT,), attestations)

    @property
    def work(self) -> Work:
        file = self.file
        return Work(file.voucher, file.receipt.claim, file.receipt.salt, file.receipt.output_digest, file.attestations)

    def settle(self, leaf: Work | ZeroReason) -> None:
        self.ledger.do(self.ledger.account("inference-0"), self.ledger.settle(self.channel, leaf))

    def shown(self, has_ledger: bool = True) -> dict[str, bool]:
        if not has_ledger:
            findings = verify_receipt_file(self.file)
        else:
            blocks = [block for block, _, _ in self.ledger.blocks]
            leaves = [
                leaf for block in blocks for leaf in collect_leaves(decode_transactions(block), block.header.height)
            ]
            by_voucher = {(leaf.channel, leaf.seq): leaf for leaf in leaves}
            findings = verify_receipt_file(self.file, self.ledger.state, by_voucher)
        assert all(finding.text for finding in findings)
        return {finding.level: finding.is_shown for finding in findings}


def test_alone_a_file_shows_signatures_and_attestations_and_says_what_it_does_not_show() -> None:
    assert Story().shown(has_ledger=False) == {
        "paid for": True,
        "signed": True,
        "attested": True,
        "drawn": False,
        "settled": False,
    }


def test_with_a_ledger_it_shows_who_was_drawn_and_what_was_paid() -> None:
    story = Story()
    assert story.shown() == {"paid for": True, "signed": True, "attested": True, "drawn": True, "settled": False}
    story.settle(story.work)
    assert all(story.shown().values())


def test_the_drawn_committee_of_a_settled_leaf_outlives_its_epoch() -> None:
    story = Story()
    story.settle(story.work)
    for _ in range(story.ledger.state.params.epochs_kept):
        story.ledger.block(after_ms=story.ledger.state.params.epoch_ms)
    assert story.ledger.state.get_epoch(0) is None
    assert story.shown()["drawn"]
    unsettled = Story()
    for _ in range(unsettled.ledger.state.params.epochs_kept):
        unsettled.ledger.block(after_ms=unsettled.ledger.state.params.epoch_ms)
    assert not unsettled.shown()["drawn"]


def test_a_leaf_settled_without_pay_is_not_shown_as_paid() -> None:
    story = Story()
    story.settle(ZeroReason.UNATTESTED)
    assert not story.shown()["settled"]
    finding = verify_receipt_file(
        story.file,
        story.ledger.state,
        {
            (leaf.channel, leaf.seq): leaf
            for leaf in collect_leaves(decode_transactions(story.ledger.blocks[-1][0]), story.ledger.state.height)
        },
    )[-1]
    assert "without pay, reason unattested" in finding.text


def test_a_file_survives_its_encoding() -> None:
    file = Story().file
    assert decode_receipt_file(encode(file)) == file


def test_any_flipped_byte_is_refused_with_a_reason() -> None:
    data = encode(Story().file)
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 1 << (place % 8)
        with pytest.raises(RemoteError) as caught:
            verify_receipt_file(decode_receipt_file(bytes(changed)))
        assert str(caught.value)


def test_a_file_cut_short_or_made_longer_is_refused() -> None:
    data = encode(Story().file)
    for changed in (b"", data[:-1], data + b"\0", data[1:]):
        with pytest.raises(MalformedMessage):
            decode_receipt_file(changed)


Change = Callable[[Story], ReceiptFile]


def _resign(story: Story, **changes: object) -> ReceiptFile:
    """The worker signs another claim, and verifiers attest that one, so that only the change itself is wrong."""
    node = story.ledger.node("inference-0")
    claim = sign(replace(story.file.receipt.claim, **changes), node)
    receipt = replace(story.file.receipt, claim=claim)
    return replace(story.file, receipt=receipt, attestations=_attest_as(story, receipt, ("verifier-0", "verifier-1")))


def _attest_as(story: Story, receipt: object, names: tuple[str, ...]) -> tuple[Attestation, ...]:
    claim_id = compute_claim_id(receipt.claim)  # type: ignore[attr-defined]
    made = []
    for name in names:
        key = story.ledger.node(name)
        value = compute_attestation(claim_id, key.public, receipt.output_digest)  # type: ignore[attr-defined]
        made.append(sign(Attestation(claim_id, key.public, value, b"", bytes(64)), key))
    return tuple(made)


CHANGES: dict[str, Change] = {
    "another version": lambda s: replace(s.file, version=2),
    "another request": lambda s: replace(s.file, request=replace(s.file.request, nonce=b"x" * 16)),
    "another output": lambda s: replace(s.file, outputs=(replace(OUTPUT, data=b"\x01" * 40),)),
    "no output": lambda s: replace(s.file, outputs=()),
    "one attestation": lambda s: replace(s.file, attestations=s.file.attestations[:1]),
    "no attestations": lambda s: replace(s.file, attestations=()),
    "one attestation twice": lambda s: replace(s.file, attestations=s.file.attestations[:1] * 2),
    "the worker attests": lambda s: replace(
        s.file,
        attestations=(*s.file.attestations[:1], *_attest_as(s, s.file.receipt, ("inference-0",))),
    ),
    "a voucher of another": lambda s: replace(s.file, voucher=sign(s.file.voucher, PrivateKey.from_seed(b"x" * 32))),
    "another amount": lambda s: replace(
        s.file, voucher=sign(replace(s.file.voucher, amount=5), s.ledger.account("client-0"))
    ),
    "a claim of another model": lambda s: _resign(s, model=bytes(32)),
    "a claim of fewer verifiers": lambda s: _resign(s, verifiers=1),
    "a claim of other inputs": lambda s: _resign(s, input_digest=bytes(32)),
    "a claim of another voucher": lambda s: _resign(s, seq=2),
    "a claim that opens to something else": lambda s: _resign(s, commitment=bytes(32)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_file_whose_parts_do_not_fit_is_refused(name: str) -> None:
    story = Story()
    with pytest.raises(RemoteError):
        verify_receipt_file(CHANGES[name](story))


def test_a_ledger_that_contradicts_the_file_refuses_it() -> None:
    story = Story(verifiers=3)
    drawn = {item.verifier for item in story.file.attestations}
    others = [f"verifier-{index}" for index in range(3)]
    wrong = next(
        pair
        for pair in (("verifier-0", "verifier-1"), ("verifier-1", "verifier-2"), ("verifier-0", "verifier-2"))
        if {story.ledger.node(name).public for name in pair} != drawn
    )
    assert set(wrong) <= set(others)
    file = replace(story.file, attestations=_attest_as(story, story.file.receipt, wrong))
    assert verify_receipt_file(file)[2].is_shown  # alone it cannot know who was drawn
    with pytest.raises(InvalidProof, match="drew other verifiers"):
        verify_receipt_file(file, story.ledger.state)
    with pytest.raises(InvalidProof, match="of chain"):
        verify_receipt_file(file, Ledger({"validator": 1}).state)
    Quarrel(story.ledger, "client-0", story.file.receipt).condemn()
    with pytest.raises(InvalidProof, match="found this claim wrong"):
        verify_receipt_file(story.file, story.ledger.state)


def back(story: Story, *backings: Backing) -> ReceiptFile:
    return replace(story.file, backings=backings)


def simulate_enclave(story: Story) -> Backing:
    request, receipt = story.file.request, story.file.receipt
    user_data = compute_user_data(compute_claim_id(receipt.claim), receipt.output_digest)
    return Backing("tee_simulated", make_document(request.deadline_ms, compute_request_id(request), user_data))


TRUST = Trust(measurements=frozenset({MEASUREMENT}), is_test_network=True)


def test_a_file_may_hold_more_proofs_and_each_is_a_level_of_its_own() -> None:
    story = Story()
    attested = Backing("reexec", encode(Attestations(story.file.attestations)))
    file = decode_receipt_file(encode(back(story, simulate_enclave(story), attested, Backing("signed", b""))))
    findings = {item.level: item for item in verify_receipt_file(file, trust=TRUST)}
    assert all(findings[level].is_shown for level in ("signed", "attested", "tee_simulated", "reexec"))
    assert "not verified hardware" in findings["tee_simulated"].text
    assert findings["reexec"].text == findings["attested"].text


def test_in_private_mode_where_nobody_attests_a_document_is_shown_all_the_same() -> None:
    story = Story()
    state, foundation = story.ledger.state, story.ledger.foundation
    request = make_request(state, foundation, mode=Mode.PRIVATE, proof="signed", verifiers=0)
    item = pay(request, foundation, story.channel)
    receipt = make_receipt(item, story.ledger.node("inference-0"))
    story.file = ReceiptFile(VERSION, request, item.voucher, receipt, (OUTPUT,), ())
    shown = {
        item.level: item.is_shown for item in verify_receipt_file(back(story, simulate_enclave(story)), trust=TRUST)
    }
    assert shown == {"paid for": True, "signed": True, "attested": False, "tee_simulated": True}
    document = simulate_enclave(Story())
    with pytest.raises(InvalidProof, match="nonce"):
        verify_receipt_file(back(story, document), trust=TRUST)


def test_any_flipped_byte_of_a_file_with_a_document_is_refused() -> None:
    data = encode(back(Story(), simulate_enclave(Story())))
    verify_receipt_file(decode_receipt_file(data), trust=TRUST)
    for place in range(len(encode(Story().file)) - 1, len(data), 3):
        changed = bytearray(data)
        changed[place] ^= 1 << (place % 8)
        with pytest.raises(RemoteError):
            verify_receipt_file(decode_receipt_file(bytes(changed)), trust=TRUST)


BACKINGS: dict[str, Callable[[Story], tuple[Backing, ...]]] = {
    "a kind nobody registered": lambda s: (Backing("oath", b"x"),),
    "two of one kind": lambda s: (Backing("signed", b""),) * 2,
    "evidence where there is none": lambda s: (Backing("signed", b"x"),),
    "evidence of another kind": lambda s: (replace(simulate_enclave(s), kind="tee"),),
    "attestations of another output": lambda s: (
        Backing("reexec", encode(Attestations(attest(s.ledger.state, s.ledger.foundation, s.file.receipt, bytes(32))))),
    ),
    "too few attestations": lambda s: (Backing("reexec", encode(Attestations(s.file.attestations[:1]))),),
    "no attestations": lambda s: (Backing("reexec", b""),),
    "a document of another job": lambda s: (
        Backing("tee_simulated", make_document(s.file.request.deadline_ms, bytes(32), bytes(32))),
    ),
}


@pytest.mark.parametrize("name", BACKINGS)
def test_a_file_is_refused_that_holds(name: str) -> None:
    story = Story()
    with pytest.raises(RemoteError):
        verify_receipt_file(back(story, *BACKINGS[name](story)), trust=TRUST)


def test_without_trust_a_file_with_a_simulated_document_is_refused() -> None:
    story = Story()
    with pytest.raises(InvalidProof, match="outside a test network"):
        verify_receipt_file(back(story, simulate_enclave(story)))


class Seal:
    """Evidence: four bytes, which must be `seal`; `lost` stands for a tool this machine lacks."""

    name = "seal"
    evidence_bytes_max = 4

    def describe(self) -> ProofDescription:
        return ProofDescription(shows="a seal", does_not_show="whose")

    def verify(self, context: object, evidence: bytes) -> str:
        if evidence == b"lost":
            raise CannotCheck("install a seal")
        if evidence != b"seal":
            raise InvalidProof("no seal")
        return "a seal"


def test_a_kind_from_outside_is_bounded_and_may_be_unable_to_tell() -> None:
    with temporary_registrations():
        register_proof_kind(Seal())
        good, *_ = [
            item for item in verify_receipt_file(back(Story(), Backing("seal", b"seal"))) if item.level == "seal"
        ]
        lost, *_ = [
            item for item in verify_receipt_file(back(Story(), Backing("seal", b"lost"))) if item.level == "seal"
        ]
        assert (good.is_shown, good.text) == (True, "a seal")
        assert not lost.is_shown
        assert "install a seal" in lost.text
        for evidence, match in ((b"leal", "no seal"), (b"sealed", "6 bytes of evidence")):
            with pytest.raises(InvalidProof, match=match):
                verify_receipt_file(back(Story(), Backing("seal", evidence)))


def test_each_proof_kind_says_what_it_shows_and_what_it_does_not() -> None:
    for kind in (SIGNED, REEXEC, TEE, TEE_SIMULATED):
        assert find_proof_kind(kind.name) is kind
        assert kind.describe().shows
        assert kind.describe().does_not_show
