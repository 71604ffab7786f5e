"""Paid requests, receipts and attestations between the nodes of a founded network, signed as the real ones are."""

from dataclasses import replace

from protocol.codec import encode
from protocol.committee import compute_committee
from protocol.jobs import (
    Attestation,
    Claim,
    InferenceRequest,
    PaidRequest,
    Receipt,
    Voucher,
    compute_attestation,
    compute_claim_id,
    compute_commitment,
    compute_request_id,
)
from protocol.keys import PrivateKey
from protocol.ledger.fees import with_fee
from protocol.ledger.genesis import ModelRecord
from protocol.ledger.state import State
from protocol.ledger.transactions import ChannelOpening, OpenChannels, Transaction, get_transaction_kind
from protocol.signing import sign
from protocol.tensor import Tensor, compute_tensors_digest
from testnet.genesis import Foundation

PRICE = 1_000_000
ROW = Tensor("uint8", (1, 64), bytes(64))
OUTPUT = Tensor("int32", (1, 10), bytes(40))


def get_keys(foundation: Foundation, name: str) -> tuple[PrivateKey, PrivateKey]:
    """The node key and the account key of a named node."""
    seeds = foundation.nodes[name]
    return PrivateKey.from_seed(seeds.node), PrivateKey.from_seed(seeds.account)


def find_model(state: State, name: str = "digits") -> ModelRecord:
    return next(model for model in state.models.values() if model.name == name)


def sign_transaction(state: State, account: PrivateKey, body: object, nonce: int | None = None) -> Transaction:
    """A transaction that the next blocks can hold."""
    unsigned = Transaction(
        state.chain,
        account.public,
        state.get_nonce(account.public) if nonce is None else nonce,
        get_transaction_kind(type(body)),
        encode(body),
        0,
        0,
        state.time_ms + 60_000,
        bytes(64),
    )
    return sign(with_fee(unsigned, state.base_fee), account)


def open_channel(state: State, payer: PrivateKey, payee: bytes, deposit: int = 100 * PRICE) -> Transaction:
    return sign_transaction(state, payer, OpenChannels((ChannelOpening(payee, deposit),)))


def make_request(state: State, foundation: Foundation, number: int = 0, **changes: object) -> InferenceRequest:
    node, account = get_keys(foundation, "client-0")
    request = InferenceRequest(
        chain=state.chain,
        account=account.public,
        client=node.public,
        model=find_model(state).digest,
        inputs=(ROW,),
        inputs_blob=(),
        proof="reexec",
        verifiers=2,
        fee_max=PRICE,
        epoch=state.epoch,
        deadline_ms=state.time_ms + 30_000,
        nonce=number.to_bytes(16, "big"),
    )
    return replace(request, **changes)  # type: ignore[arg-type]


def pay(
    request: InferenceRequest, foundation: Foundation, channel: bytes, seq: int = 1, /, **changes: object
) -> PaidRequest:
    """The request with a voucher; vouchers before it on the channel were of the same price."""
    _, account = get_keys(foundation, "client-0")
    voucher = Voucher(
        channel=channel,
        seq=seq,
        amount=PRICE,
        cumulative=PRICE * seq,
        request_id=compute_request_id(request),
        attempt=1,
        expiry_ms=request.deadline_ms + 120_000,
        signature=bytes(64),
    )
    return PaidRequest(request, sign(replace(voucher, **changes), account))  # type: ignore[arg-type]


def make_receipt(item: PaidRequest, worker: PrivateKey, outputs: tuple[Tensor, ...] = (OUTPUT,)) -> Receipt:
    request, voucher = item.request, item.voucher
    salt, digest = b"s" * 32, compute_tensors_digest(outputs)
    claim = Claim(
        request_id=voucher.request_id,
        attempt=voucher.attempt,
        channel=voucher.channel,
        seq=voucher.seq,
        worker=worker.public,
        model=request.model,
        profile="test",
        input_digest=compute_tensors_digest(request.inputs),
        rows=1,
        fee=voucher.amount,
        epoch=request.epoch,
        verifiers=request.verifiers,
        deadline_ms=request.deadline_ms,
        commitment=compute_commitment(salt, digest),
        signature=bytes(64),
    )
    return Receipt(sign(claim, worker), salt, digest)


def draw(state: State, receipt: Receipt) -> tuple[bytes, ...]:
    claim = receipt.claim
    epoch = state.epochs[claim.epoch]
    return compute_committee(epoch.seed, claim.request_id, claim.worker, epoch.candidates, claim.verifiers)


def attest(state: State, foundation: Foundation, receipt: Receipt, output_digest: bytes) -> tuple[Attestation, ...]:
    """What the drawn verifiers sign when each has found `output_digest`, in the order drawn."""
    keys = {get_keys(foundation, name)[0].public: get_keys(foundation, name)[0] for name in foundation.nodes}
    claim_id = compute_claim_id(receipt.claim)
    return tuple(
        sign(
            Attestation(claim_id, node, compute_attestation(claim_id, node, output_digest), b"", bytes(64)), keys[node]
        )
        for node in draw(state, receipt)
    )
