"""What gossip says about each message: accept, ignore or reject, and why.

One function per topic. Rules run cheapest first, signatures last, and each names its verdict. Reject is for what the
message itself shows to be wrong, whoever looks and whenever. What may be honest is ignored: late, early, or about a
part of the ledger this node does not, or no longer, know. Source: gossipsub v1.1, Extended Validators.
"""

from collections.abc import Callable, Iterable
from typing import Any

from protocol.errors import LocalError, RemoteError
from protocol.jobs import Attestation, Claim, ClaimedWork, InferenceRequest, PaidRequest, compute_request_id
from protocol.ledger.block import InvalidCertificate, verify_certificate
from protocol.ledger.errors import UnknownTransactionKind
from protocol.ledger.feeds import get_observers
from protocol.ledger.fees import compute_base_fee, count_units
from protocol.ledger.oracle import SEQUENCES_MAX
from protocol.ledger.signatures import verify_transaction
from protocol.ledger.state import State
from protocol.ledger.transactions import Transaction, read_transaction
from protocol.messages import (
    Advert,
    Attestations,
    Claims,
    Head,
    ObservationMessage,
    Requests,
    Said,
    Transactions,
)
from protocol.signing import verify_signed
from protocol.tensor import compute_tensors_digest, verify_tensor
from protocol.topics import infer_topic, oracle_topic
from protocol.types import NodeState, Verdict

Checked = tuple[Verdict, str]
Check = Callable[[str, bytes, Any, State, int], Checked]

AHEAD_MS_MAX = 120_000  # of a deadline or expiry
WINDOW_MS = 30_000  # clocks may differ by this much
ACCEPTED: Checked = (Verdict.ACCEPT, "")


def check_message(topic: str, sender: bytes, message: Any, state: State, now_ms: int) -> Checked:
    """The verdict on a message that came, signed by `sender`, on a topic that carries its kind.

    `topic` is short (`claims`, `infer/0`). A kind without a check of its own is accepted: its envelope is verified.
    """
    check = _checks.get(type(message))
    return ACCEPTED if check is None else check(topic, sender, message, state, now_ms)


def register_check(cls: type, check: Check) -> None:
    """Give an extension's message a check. LocalError when the type has one."""
    if _checks.setdefault(cls, check) is not check:
        raise LocalError(f"{cls.__name__} has a check already")


def check_said(topic: str, sender: bytes, message: Said, state: State, now_ms: int) -> Checked:
    """Validators speak here, and nobody else. What they say is checked by the consensus core."""
    epoch = state.get_epoch(state.epoch)
    candidates = () if epoch is None else epoch.get_candidates("validator")
    if all(sender != item.node for item in candidates):
        return _ignore("a word of nobody who is known to validate now")
    return ACCEPTED


def check_requests(topic: str, sender: bytes, message: Requests, state: State, now_ms: int) -> Checked:
    return _combine(check_request(topic, sender, item, state, now_ms) for item in message.items)


def check_request(topic: str, sender: bytes, item: PaidRequest, state: State, now_ms: int) -> Checked:
    """A request is for the topic's models, from the client itself, and paid for by the account it names."""
    request, voucher = item.request, item.voucher
    if request.client != sender:
        return _reject("a request of another client than the sender")
    if request.chain != state.chain:
        return _reject(f"a request for chain {request.chain.hex()}")
    if topic != infer_topic(request.model):
        return _reject(f"model {request.model.hex()} is asked for on {infer_topic(request.model)}, not here")
    if voucher.amount > request.fee_max or voucher.amount > voucher.cumulative or not voucher.seq:
        return _reject(f"voucher {voucher.seq} of {voucher.amount} grains contradicts itself or its request")
    late = _check_deadline(request.deadline_ms, now_ms)
    if late is not None:
        return late
    if state.get_epoch(request.epoch) is None:
        return _ignore(f"epoch {request.epoch} is not known here, the ledger is in {state.epoch}")
    model = state.models.get(request.model)
    if model is None or model.retired_ms:
        return _ignore(f"model {request.model.hex()} is not on the ledger, or retired")
    channel = state.get_channel(voucher.channel)
    if channel is None or channel.payer != request.account:
        return _ignore(f"channel {voucher.channel.hex()} of this account is not known here")
    if voucher.seq <= channel.settled_seq:
        return _ignore(f"voucher {voucher.seq} is settled, the channel is at {channel.settled_seq}")
    if voucher.request_id != compute_request_id(request):
        return _reject("the voucher is for another request")
    try:
        for tensor in request.inputs:
            verify_tensor(tensor)
        verify_signed(voucher, request.account)
    except RemoteError as error:
        return _reject(str(error))
    return ACCEPTED


def check_claims(topic: str, sender: bytes, message: Claims, state: State, now_ms: int) -> Checked:
    return _combine(check_claim(topic, sender, item, state, now_ms) for item in message.items)


def check_claim(topic: str, sender: bytes, item: ClaimedWork, state: State, now_ms: int) -> Checked:
    """A claim comes from its worker, answers the request beside it and says nothing else than that."""
    claim, request = item.claim, item.request
    if claim.worker != sender:
        return _reject("a claim of another worker than the sender")
    difference = _find_difference(item)
    if difference:
        return _reject(difference)
    if request.chain != state.chain:
        return _reject(f"a request for chain {request.chain.hex()}")
    late = _check_deadline(claim.deadline_ms, now_ms)
    if late is not None:
        return late
    epoch = state.get_epoch(claim.epoch)
    if epoch is None:
        return _ignore(f"epoch {claim.epoch} is not known here, the ledger is in {state.epoch}")
    worker = epoch.find_candidate(claim.worker)
    if worker is None or not worker.serves(claim.model):
        return _ignore(f"the worker did not serve model {claim.model.hex()} in epoch {claim.epoch}")
    unpaid = _find_unpaid(claim, request, worker.account, state)
    if unpaid:
        return _ignore(unpaid)
    try:
        for tensor in request.inputs:
            verify_tensor(tensor)
        if request.inputs and compute_tensors_digest(request.inputs) != claim.input_digest:
            return _reject("the claim names other inputs than its request")
        if compute_request_id(request) != claim.request_id:
            return _reject("the claim answers another request")
        verify_signed(claim, claim.worker)
    except RemoteError as error:
        return _reject(str(error))
    return ACCEPTED


def check_attestations(topic: str, sender: bytes, message: Attestations, state: State, now_ms: int) -> Checked:
    return _combine(check_attestation(topic, sender, item, state, now_ms) for item in message.items)


def check_attestation(topic: str, sender: bytes, item: Attestation, state: State, now_ms: int) -> Checked:
    """On its topic a verifier speaks for itself. Whether it was drawn is for whoever holds the claim."""
    if item.verifier != sender:
        return _reject("an attestation of another verifier than the sender")
    if item.shown:
        return _reject("an attestation that is not blind")
    node = state.find_node(item.verifier)
    if node is None or "verifier" not in node.roles:
        return _ignore("the sender is no verifier on the ledger")
    try:
        verify_signed(item, item.verifier)
    except RemoteError as error:
        return _reject(str(error))
    return ACCEPTED


def check_transaction_message(topic: str, sender: bytes, message: Transactions, state: State, now_ms: int) -> Checked:
    return _combine(_check_transaction(data, state, now_ms) for data in message.items)


def check_observation(topic: str, sender: bytes, message: ObservationMessage, state: State, now_ms: int) -> Checked:
    """An observer's own reading, on the topic of its feed, of the round its time falls into."""
    item = message.observation
    if item.observer != sender:
        return _reject("an observation of another oracle than the sender")
    if topic != oracle_topic(item.feed):
        return _reject(f"an observation of feed {item.feed!r} on {topic}")
    if item.sequence >= SEQUENCES_MAX:
        return _reject(f"a round has {SEQUENCES_MAX} reports, none is number {item.sequence}")
    if abs(item.time_ms - now_ms) > WINDOW_MS:
        return _ignore(f"observed {item.time_ms - now_ms:+d} ms from now")
    terms = state.feed_terms.get(item.feed)
    if terms is None or terms.retired_ms:
        return _ignore(f"feed {item.feed!r} is not on the ledger")
    if item.time_ms // terms.heartbeat_ms != item.round:
        return _reject(f"time {item.time_ms} is not of round {item.round}")
    if item.observer not in get_observers(state, terms, item.round):
        return _ignore("the sender does not observe this feed")
    try:
        verify_signed(item, item.observer)
    except RemoteError as error:
        return _reject(str(error))
    return ACCEPTED


def check_head(topic: str, sender: bytes, message: Head, state: State, now_ms: int) -> Checked:
    """A decided header. Anyone may pass it on; its certificate speaks for it."""
    header, certificate = message.header, message.certificate
    if header.chain != state.chain:
        return _reject(f"a header of chain {header.chain.hex()}")
    if certificate.ballot.height != header.height or not certificate.votes:
        return _reject(f"header {header.height} with a certificate of {certificate.ballot.height}")
    if header.height <= state.height:
        return _ignore(f"height {header.height} is decided here already")
    is_next = header.height == state.height + 1
    if is_next and header.parent != state.block_id:
        return _ignore(f"header {header.height} has another parent than our block {state.height}")
    try:
        verify_certificate(certificate, header, state, is_next=is_next)
    except InvalidCertificate as error:
        # Ahead of us the validators may have changed: then what we cannot check is nobody's fault.
        return _reject(str(error)) if is_next else _ignore(str(error))
    return ACCEPTED


def check_advert(topic: str, sender: bytes, message: Advert, state: State, now_ms: int) -> Checked:
    """What a node says of itself; on the ledger it may say more, never something else."""
    if message.state not in _NODE_STATES:
        return _reject(f"{message.state!r} is no state of a node")
    if len(set(message.roles)) != len(message.roles) or not all(map(_is_multiaddr, message.addresses)):
        return _reject("roles twice, or addresses that are no multiaddrs")
    node = state.find_node(sender)
    if node is not None and node.account != message.account:
        return _ignore("the sender's node key is registered to another account")
    return ACCEPTED


_NODE_STATES = frozenset(str(state) for state in NodeState)
_checks: dict[type, Check] = {
    Requests: check_requests,
    Claims: check_claims,
    Attestations: check_attestations,
    Transactions: check_transaction_message,
    ObservationMessage: check_observation,
    Head: check_head,
    Said: check_said,
    Advert: check_advert,
}


def _reject(reason: str) -> Checked:
    return Verdict.REJECT, reason


def _ignore(reason: str) -> Checked:
    return Verdict.IGNORE, reason


def _combine(verdicts: Iterable[Checked]) -> Checked:
    """One item to reject rejects a list, one to accept is enough to pass it on, an empty one has no business here."""
    best: Checked | None = None
    for checked in verdicts:
        if checked[0] is Verdict.REJECT:
            return checked
        if best is None or checked[0] is Verdict.ACCEPT:
            best = checked
    return _reject("an empty list") if best is None else best


def _check_deadline(deadline_ms: int, now_ms: int) -> Checked | None:
    if deadline_ms < now_ms - WINDOW_MS:
        return _ignore(f"the deadline passed {now_ms - deadline_ms} ms ago")
    if deadline_ms > now_ms + AHEAD_MS_MAX + WINDOW_MS:
        return _ignore(f"the deadline is {deadline_ms - now_ms} ms ahead, at most {AHEAD_MS_MAX} allowed")
    return None


def _find_difference(item: ClaimedWork) -> str:
    """Where a claim says something else than the request it answers; empty when nowhere."""
    claim, request = item.claim, item.request
    for name in ("model", "epoch", "verifiers", "deadline_ms"):
        if getattr(claim, name) != getattr(request, name):
            return f"claim and request differ in {name}"
    if claim.fee > request.fee_max:
        return f"the claim asks {claim.fee} grains, the request allows {request.fee_max}"
    return ""


def _find_unpaid(claim: Claim, request: InferenceRequest, worker: bytes, state: State) -> str:
    """Why nothing pays for a claim, as far as this node knows: neither a job nor a voucher's channel; else empty."""
    job = state.jobs.get(claim.channel)
    if job is not None and (job.payee, job.payer, job.request_id) == (worker, request.account, claim.request_id):
        return "" if claim.seq == 0 else f"a job has one claim, none is number {claim.seq}"
    channel = state.get_channel(claim.channel)
    if channel is None or channel.payee != worker or channel.payer != request.account:
        return f"channel {claim.channel.hex()} from this client to this worker is not known here"
    if claim.seq <= channel.settled_seq:
        return f"voucher {claim.seq} is settled, the channel is at {channel.settled_seq}"
    return ""


def _check_transaction(data: bytes, state: State, now_ms: int) -> Checked:
    try:
        transaction = read_transaction(data)
        if transaction.chain != state.chain:
            return _reject(f"a transaction of chain {transaction.chain.hex()}")
        unfit = _check_fitness(transaction, len(data), state, now_ms)
        if unfit is not None:
            return unfit
        _ = transaction.content  # it has one
        verify_transaction(transaction)
    except UnknownTransactionKind as error:
        return _ignore(str(error))
    except RemoteError as error:
        return _reject(str(error))
    return ACCEPTED


def _check_fitness(transaction: Transaction, size_bytes: int, state: State, now_ms: int) -> Checked | None:
    nonce = state.get_nonce(transaction.account)
    if transaction.nonce < nonce:
        return _ignore(f"nonce {transaction.nonce} is used, the account's next is {nonce}")
    if transaction.valid_until_ms < max(now_ms - WINDOW_MS, state.time_ms):
        return _ignore(f"was valid until {transaction.valid_until_ms}")
    if transaction.valid_until_ms > now_ms + AHEAD_MS_MAX + WINDOW_MS:
        return _ignore(f"valid for {transaction.valid_until_ms - now_ms} ms, at most {AHEAD_MS_MAX} allowed")
    base_fee = compute_base_fee(state.base_fee, max(0, now_ms - state.time_ms), state.params)
    fee, balance = base_fee * count_units(size_bytes), state.get_balance(transaction.account)
    if transaction.fee < fee or balance < fee:
        return _ignore(f"offers {transaction.fee} of {balance} grains, the fee is {fee}")
    return None


def _is_multiaddr(text: str) -> bool:
    return text.startswith("/") and text.isascii() and text.isprintable()
