"""Explain one request from what was signed about it and from a ledger recomputed from genesis: nobody is believed.

Why a worker was chosen, who refused with what words, whether the answer was attested, and what the ledger made of each
voucher: paid, not paid and why, in a batch, drawn or not, slashed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from protocol.committee import compute_order, compute_working_set
from protocol.errors import ProtocolError, RemoteError
from protocol.jobs import (
    Attestation,
    InferenceRequest,
    Receipt,
    Voucher,
    compute_attestation,
    compute_claim_id,
    compute_commitment,
    compute_request_id,
)
from protocol.keys import format_account, format_node
from protocol.ledger.apply import decode_transactions
from protocol.ledger.batches import BatchSettle, SettlePrivate, compute_check_key, compute_drawn, find_run, is_paid
from protocol.ledger.block import Block
from protocol.ledger.job_records import Batch, BatchPhase, Withheld
from protocol.ledger.money import split_inference_fee
from protocol.ledger.records import EpochSnapshot
from protocol.ledger.settlement import SettledLeaf
from protocol.ledger.state import State
from protocol.ledger.transactions import ZeroReason
from protocol.ledger.withheld import compute_challenge_key
from protocol.messages import Refusal
from protocol.proofs.bounds import read_shown
from protocol.proofs.receipt_file import Finding
from protocol.signing import verify_signed
from testnet.dispute_course import DisputeCourse

REASONS = {
    ZeroReason.UNATTESTED: "the drawn verifiers did not attest it in time",
    ZeroReason.REFUSED: "the worker refused it",
    ZeroReason.NEVER_SEEN: "the worker says it never saw this voucher",
    ZeroReason.FAILED: "the run failed",
    ZeroReason.DISSENT: "the verifiers found another output",
    ZeroReason.CANCELLED: "the client called it off before it had begun",
    ZeroReason.UNPAYABLE: "its voucher had run out, or its channel did not cover it: the ledger would have refused it",
}
PHASES = {
    BatchPhase.SEED: "waits for the seed that draws leaves",
    BatchPhase.OPENINGS: "waits for the worker to open what was drawn",
    BatchPhase.ATTESTATIONS: "waits for drawn verifiers",
    BatchPhase.DIGESTS: "waits for the worker's digests",
    BatchPhase.WINDOW: "can still be challenged",
}


@dataclass(frozen=True)
class Try:
    """One attempt, as a client or a worker knows of it. `note` is nobody's signed word."""

    worker: bytes  # empty where it is not known
    voucher: Voucher
    receipt: Receipt | None = None
    attestations: tuple[Attestation, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    note: str = ""
    is_called_off: bool = False


@dataclass(frozen=True)
class Case:
    """A request with its tries. `order` is empty, and `ending` too, where only a worker knows of it."""

    request: InferenceRequest
    tries: tuple[Try, ...]
    order: tuple[bytes, ...] = ()
    ending: str = ""

    @property
    def request_id(self) -> bytes:
        return compute_request_id(self.request)

    @property
    def claim_ids(self) -> tuple[bytes, ...]:
        return tuple(compute_claim_id(item.receipt.claim) for item in self.tries if item.receipt is not None)


@dataclass
class _BatchLeaf:
    """The batch that holds a voucher's leaf, as it was last seen on the ledger."""

    key: bytes
    height: int
    index: int
    batch: Batch | None = None  # None in mode `private`, where there is nothing to wait for
    gone_height: int = 0
    is_forfeit: bool = False
    is_void: bool = False  # nobody could check it, or decide about it: given back by itself
    is_slashed: bool = False
    asked_height: int = 0  # when its payer asked for the output in public
    answered_height: int = 0
    challenge: Withheld | None = None  # as it was last seen


@dataclass
class History:
    """Watches a ledger being recomputed for what concerns one case: give `on_block` to `recompute`."""

    case: Case
    epoch: EpochSnapshot | None = None
    working_set: int = 0
    leaves: dict[tuple[bytes, int], _BatchLeaf] = field(default_factory=dict)
    slashes: dict[bytes, tuple[int, int]] = field(default_factory=dict)  # claim id -> (height, grains)

    def __post_init__(self) -> None:
        self.disputes = DisputeCourse(self.case.claim_ids)

    def on_block(self, before: State, block: Block, after: State) -> None:
        for state in (before, after):
            if self.epoch is None and (snapshot := state.get_epoch(self.case.request.epoch)) is not None:
                self.epoch, self.working_set = snapshot, state.params.working_set
        for transaction in decode_transactions(block):
            if isinstance(transaction.content, BatchSettle | SettlePrivate):
                self._find_leaf(transaction.id, transaction.content, after.height)
        for leaf in self.leaves.values():
            self._follow(leaf, before, after)
        self.disputes.take(before, after)
        for claim_id in self.case.claim_ids:
            if claim_id in after.wrong and claim_id not in before.wrong:
                self.slashes[claim_id] = after.height, after.wrong[claim_id].slashed

    def _find_leaf(self, key: bytes, body: BatchSettle | SettlePrivate, height: int) -> None:
        index = 0
        for run in body.runs:
            for item in self.case.tries:
                voucher = item.voucher
                if voucher.channel == run.last.channel and run.seq_first <= voucher.seq <= run.last.seq:
                    at = index + voucher.seq - run.seq_first
                    self.leaves[voucher.channel, voucher.seq] = _BatchLeaf(key, height, at)
            index += run.last.seq - run.seq_first + 1

    def _follow(self, leaf: _BatchLeaf, before: State, after: State) -> None:
        challenge = after.withheld.get(compute_challenge_key(leaf.key, leaf.index))
        if challenge is not None:
            leaf.challenge = challenge
            leaf.asked_height = leaf.asked_height or after.height
            leaf.answered_height = leaf.answered_height or (after.height if challenge.is_over else 0)
        now, last = after.batches.get(leaf.key), before.batches.get(leaf.key)
        if now is not None:
            leaf.batch = now
        elif last is not None:
            run = find_run(last, leaf.index)[0]
            channels = [state.channels.get(run.channel) for state in (before, after)]
            leaf.batch, leaf.gone_height = last, after.height
            check = before.checks.get(compute_check_key(leaf.key, leaf.index))
            leaf.is_void = check is not None and not is_paid(check, before.models.get(check.claim.model))
            # Whoever is forfeit gives back the whole run; a payout at most single leaves of it.
            given = channels[0].paid - channels[1].paid if channels[0] and channels[1] else 0
            leaf.is_forfeit = last.phase != BatchPhase.WINDOW or given == run.amount > 0
            bonds = [state.nodes[last.worker].bond if last.worker in state.nodes else 0 for state in (before, after)]
            leaf.is_slashed = leaf.is_forfeit and bonds[1] < bonds[0]


def explain(
    case: Case, state: State, history: History, settled: "dict[tuple[bytes, int], SettledLeaf]"
) -> Iterator[Finding]:
    """What is known of the case, step by step; what is not shown says why."""
    request = case.request
    yield Finding(
        "ordered",
        True,
        f"account {format_account(request.account)} ordered model {request.model.hex()} in mode {request.mode},"
        f" for at most {request.fee_max} grains, in epoch {request.epoch}",
    )
    yield _explain_choice(case, history)
    for item in case.tries:
        yield from _explain_try(case, item, state)
        yield _explain_leaf(item, state, history, settled)
        batched = history.leaves.get((item.voucher.channel, item.voucher.seq))
        if batched is not None and batched.challenge is not None:
            yield _explain_challenge(batched, batched.challenge)
        claim_id = b"" if item.receipt is None else compute_claim_id(item.receipt.claim)
        for line in history.disputes.lines.get(claim_id, ()):
            yield Finding("disputed", True, line)
        if claim_id in history.slashes:
            height, grains = history.slashes[claim_id]
            yield Finding("slashed", True, f"block {height}: the claim was found wrong, {grains} grains of stake went")
    if case.ending:
        yield Finding("ended", True, case.ending)


def _explain_choice(case: Case, history: History) -> Finding:
    request, epoch = case.request, history.epoch
    if epoch is None:
        return Finding("chosen", False, f"why these workers: no block of this ledger knows epoch {request.epoch}")
    drawn = compute_working_set(epoch.seed, request.account, request.model, epoch.candidates, history.working_set)
    order = compute_order(case.request_id, drawn)
    names = ", then ".join(format_node(node) for node in order)
    asked = [item.worker for item in case.tries if item.worker]
    strangers = [node for node in asked if node not in order]
    if strangers or (case.order and case.order != order):
        who = format_node(strangers[0]) if strangers else "another order"
        return Finding("chosen", False, f"that the draw was kept to: the ledger draws {names}; the client took {who}")
    return Finding("chosen", True, f"the seed of epoch {request.epoch} draws {names}; a client may take any of them")


def _explain_try(case: Case, item: Try, state: State) -> Iterator[Finding]:
    voucher, who = item.voucher, format_node(item.worker) if item.worker else "the worker"
    try:
        verify_signed(voucher, case.request.account)
        if voucher.request_id != case.request_id:
            raise RemoteError("it pays another request")
    except RemoteError as error:
        yield Finding("paid for", False, f"that attempt {voucher.attempt} was paid for: {error}")
        return
    text = f"attempt {voucher.attempt}: {who} was given voucher {voucher.seq} of {voucher.amount} grains"
    yield Finding("paid for", True, text)
    for refusal in item.refusals:
        yield _explain_refusal(case, item, refusal)
    if item.is_called_off:
        yield Finding("called off", False, f"that {who} was told to leave it: the client's own word, nobody signed it")
    if item.note and not item.refusals:
        yield Finding("given up", False, f"why the client gave {who} up: by its own word, {item.note}")
    if item.receipt is not None:
        yield from _explain_receipt(item, item.receipt, state)


def _explain_refusal(case: Case, item: Try, refusal: Refusal) -> Finding:
    who = format_node(item.worker)
    try:
        verify_signed(refusal, item.worker)
        if (refusal.request_id, refusal.attempt) != (case.request_id, item.voucher.attempt):
            raise RemoteError("it is about another attempt")
    except ProtocolError as error:
        return Finding("refused", False, f"that {who} refused: what is kept does not hold: {error}")
    return Finding("refused", True, f"{who} signed: {refusal.code}: {refusal.reason}")


def _explain_receipt(item: Try, receipt: Receipt, state: State) -> Iterator[Finding]:
    claim, who = receipt.claim, format_node(receipt.claim.worker)
    try:
        verify_signed(claim, claim.worker)
        if claim.commitment != compute_commitment(receipt.salt, receipt.output_digest):
            raise RemoteError("it does not open its claim")
    except RemoteError as error:
        yield Finding("computed", False, f"that {who} computed it: {error}")
        return
    claim_id = compute_claim_id(claim)
    yield Finding("computed", True, f"{who} signed its output, claim {claim_id.hex()}")
    if not item.attestations:
        yield Finding("attested", False, "that anyone else computed the same: no attestation is kept")
        return
    agreeing = [
        format_node(each.verifier)
        for each in item.attestations
        if (
            read_shown(each) is not None
            or each.value == compute_attestation(claim_id, each.verifier, receipt.output_digest)
        )
        and _is_signed(each)
    ]
    is_shown = len(agreeing) == claim.verifiers
    text = f"{len(agreeing)} of {claim.verifiers} verifiers signed the same output: {', '.join(agreeing) or 'nobody'}"
    yield Finding("attested", is_shown, text if is_shown else f"that it is right: {text}")


def _explain_leaf(
    item: Try, state: State, history: History, settled: "dict[tuple[bytes, int], SettledLeaf]"
) -> Finding:
    voucher = item.voucher
    key = voucher.channel, voucher.seq
    leaf, batched = settled.get(key), history.leaves.get(key)
    if leaf is not None and not leaf.reason:
        count = len(item.attestations) or (item.receipt.claim.verifiers if item.receipt is not None else 2)
        worker, each, treasury, burn = split_inference_fee(leaf.amount, count, state.params)
        text = (
            f"block {leaf.height} settled {leaf.amount} grains: {worker} to the worker, {each} to each of {count}"
            f" verifiers, {treasury} to the treasury, {burn} burnt"
        )
        return Finding("settled", True, text)
    if leaf is not None:
        why = REASONS[ZeroReason(leaf.reason)]
        return Finding("not paid", True, f"block {leaf.height} ended voucher {voucher.seq} without pay: {why}")
    if batched is not None:
        return _explain_batch(batched)
    channel = state.channels.get(voucher.channel)
    if channel is None:
        return Finding("settled", False, "what became of the voucher: its channel is closed, or of another ledger")
    text = f"the ledger has settled channel {voucher.channel.hex()} up to voucher {channel.settled_seq}"
    return Finding("settled", False, f"that voucher {voucher.seq} has ended: {text}")


def describe_batched(voucher: Voucher, history: History | None) -> tuple[Finding, Finding]:
    """For a receipt in mode `batch` or `private`: whether its leaf was drawn to be checked, and whether it was paid."""
    if history is None:
        return _tell_nothing("a ledger has to be recomputed for that, with --ledger")
    leaf = history.leaves.get((voucher.channel, voucher.seq))
    if leaf is None:
        return _tell_nothing(f"no block has voucher {voucher.seq} in a batch")
    end = _explain_batch(leaf)
    if leaf.batch is None:
        return Finding("drawn", False, "that anybody checked it: in mode private no leaf is ever drawn"), end
    is_drawn, text = _is_drawn(leaf, leaf.batch), _tell_drawn(leaf, leaf.batch)
    drawn = Finding("drawn", is_drawn, text if is_drawn else f"that anybody checked it: {text}")
    is_paid = end.level == "settled"
    return drawn, end if is_paid else Finding("settled", False, f"that the worker was paid: {end.text}")


def _tell_nothing(why: str) -> tuple[Finding, Finding]:
    return (
        Finding("drawn", False, f"whether its leaf was drawn to be checked: {why}"),
        Finding("settled", False, f"that the worker was paid: {why}"),
    )


def _is_drawn(leaf: _BatchLeaf, batch: Batch) -> bool:
    return bool(batch.seed) and leaf.index in compute_drawn(batch.seed, leaf.key, batch.leaves, batch.sample_bp)


def _tell_drawn(leaf: _BatchLeaf, batch: Batch) -> str:
    if not batch.seed:
        return "nothing is drawn yet"
    is_drawn = _is_drawn(leaf, batch)
    return "it was drawn to be checked" if is_drawn else "it was not among those drawn to be checked"


def _explain_batch(leaf: _BatchLeaf) -> Finding:
    where = f"leaf {leaf.index} of batch {leaf.key.hex()}, block {leaf.height}"
    batch = leaf.batch
    if batch is None:
        return Finding("settled", True, f"{where}: committed to and paid at once, never opened (mode private)")
    drawn = _tell_drawn(leaf, batch)
    if not leaf.gone_height:
        return Finding("batched", True, f"{where}: {drawn}; the batch {PHASES[BatchPhase(batch.phase)]}")
    if leaf.is_forfeit:
        slashed = " and the worker was slashed" if leaf.is_slashed else ""
        return Finding("refunded", True, f"{where}: {drawn}; block {leaf.gone_height}: the batch is forfeit{slashed}")
    if leaf.is_void:
        text = f"{where}: {drawn}; block {leaf.gone_height} paid the batch out but gave this leaf back, undecided"
        return Finding("refunded", True, text)
    return Finding("settled", True, f"{where}: {drawn}; block {leaf.gone_height} paid the batch out")


def _explain_challenge(leaf: _BatchLeaf, challenge: Withheld) -> Finding:
    asked = f"block {leaf.asked_height}: its payer said the output was withheld"
    if not challenge.is_over:
        return Finding(
            "withheld", True, f"{asked}; the worker has until {challenge.deadline_ms}, put off once, to show it"
        )
    if challenge.is_forfeit:
        text = f"block {leaf.answered_height}: the worker was silent, the leaf is forfeit and the client has its money"
        return Finding("withheld", True, f"{asked}; {text}")
    what = "published it" if challenge.answer else "showed that the leaf earns nothing"
    return Finding("withheld", True, f"{asked}; block {leaf.answered_height}: the worker {what}")


def _is_signed(attestation: Attestation) -> bool:
    try:
        verify_signed(attestation, attestation.verifier)
    except RemoteError:
        return False
    return True


def summarise(findings: Sequence[Finding]) -> list[dict[str, object]]:
    """Findings ready for JSON."""
    return [{"step": item.level, "shown": item.is_shown, "text": item.text} for item in findings]
