"""How a worker was found wrong, as a file anyone can check: the signed words of the dispute it has lost.

The worker's own words are in it: what it said its output was, what each operator of the model gave, and what the one
in dispute took; and those of the validators that ran that operator. Of a text it is one step that the operators are of;
how that step follows from the text is shown with a ledger, which knows the form of the model.
"""

from collections.abc import Iterable
from typing import Annotated

from protocol.codec import decode
from protocol.errors import InvalidProof
from protocol.fast_dataclass import fast_dataclass
from protocol.generation import read_form
from protocol.jobs import Claim, compute_claim_id
from protocol.keys import format_account, format_node
from protocol.ledger.disputes import JudgeOperator, NameOperator, OpenDispute, PostExhibit, PostTrace
from protocol.ledger.signatures import verify_transaction
from protocol.ledger.state import State
from protocol.ledger.step_disputes import NameStep, PostSteps
from protocol.ledger.transactions import Transaction
from protocol.proofs.kinds import verify_receipt
from protocol.proofs.receipt_file import Finding
from protocol.proofs.steps import ASSEMBLY, Generated, Said, find_step_misfit, read_generated, verify_step_binding
from protocol.proofs.trace import Exhibit, Judgement, Trace, find_misfit, unpack_trace, verify_binding
from protocol.signing import verify_signed
from protocol.tensor import compute_tensors_digest
from protocol.types import AtMost

Answer = PostSteps | NameStep | PostTrace | NameOperator | PostExhibit | JudgeOperator
SUFFIX = ".evidence"
EVIDENCE_BYTES_MAX = 512 * 1024
WORDS = (OpenDispute, PostSteps, NameStep, PostTrace, NameOperator, PostExhibit, JudgeOperator)


@fast_dataclass(frozen=True)
class Evidence:
    """A claim, and the transactions of a dispute about it in the order of the ledger."""

    claim: Claim
    transactions: Annotated[tuple[Transaction, ...], AtMost(64)]


class DisputeWords:
    """Gathers what was said in disputes while blocks are gone through, and forgets what is over."""

    def __init__(self) -> None:
        self._said: dict[bytes, list[Transaction]] = {}  # by dispute

    def take(self, transactions: Iterable[Transaction]) -> None:
        for transaction in transactions:
            word = transaction.content
            if isinstance(word, OpenDispute):
                self._said[transaction.id] = [transaction]
            elif isinstance(word, Answer) and word.dispute in self._said:
                self._said[word.dispute].append(transaction)

    def find_evidence(self, before: State, claim_id: bytes) -> Evidence | None:
        """What a claim has just been found wrong by. Of several disputes about it, the one in which most was said."""
        held = {key: item.claim for key, item in before.disputes.items() if compute_claim_id(item.claim) == claim_id}
        key = max(held, key=lambda key: len(self._said[key]), default=None)
        return Evidence(held[key], tuple(self._said[key])) if key is not None else None

    def forget(self, after: State) -> None:
        """Drop what was said in disputes that are over."""
        for key in self._said.keys() - after.disputes.keys():
            del self._said[key]


def decode_evidence(data: bytes) -> Evidence:
    """Read a file. MalformedMessage for anything but the canonical bytes of one."""
    return decode(Evidence, data, EVIDENCE_BYTES_MAX)


def verify_evidence(evidence: Evidence, state: State | None = None) -> tuple[Finding, ...]:
    """What the evidence shows, level by level. RemoteError, with the reason, when anything in it does not fit."""
    claim = evidence.claim
    verify_signed(claim, claim.worker)
    if not evidence.transactions or not isinstance(evidence.transactions[0].content, OpenDispute):
        raise InvalidProof("it does not begin with the opening of a dispute")
    key = evidence.transactions[0].id
    for transaction in evidence.transactions:
        verify_transaction(transaction)
        word = transaction.content
        if not isinstance(word, WORDS) or (not isinstance(word, OpenDispute) and word.dispute != key):
            raise InvalidProof(f"a transaction of kind {transaction.kind} is none of this dispute's")
    order = sorted(evidence.transactions, key=lambda item: WORDS.index(type(item.content)))
    said = {type(item.content) for item in order}
    if list(evidence.transactions) != order or len(order) - _count_judges(evidence) != len(said - {JudgeOperator}):
        raise InvalidProof("the words of the dispute are out of order, or said twice")
    argument = _find_argument(evidence, state)
    return (_find_signed(evidence), argument, _find_judged(evidence), _find_slashed(evidence, state))


def _find_signed(evidence: Evidence) -> Finding:
    order, claim = evidence.transactions[0].content, evidence.claim
    who = format_account(evidence.transactions[0].account)
    for receipt in order.receipt:
        verify_receipt(receipt)
        if receipt.claim != claim:
            raise InvalidProof("the receipt in dispute is of another claim")
        if receipt.output_digest == order.output_digest:
            raise InvalidProof("the challenger found what the worker says: nothing is wrong")
        said, found = receipt.output_digest.hex()[:16], order.output_digest.hex()[:16]
        text = f"node {format_node(claim.worker)} signed output {said}… for its claim, {who} found {found}…"
        return Finding("signed", True, text)
    return Finding("signed", True, f"node {format_node(claim.worker)} signed the claim of a leaf {who} disputes")


def _find_argument(evidence: Evidence, state: State | None) -> Finding:
    """What the worker said in its defence, as far as it did."""
    words = [item.content for item in evidence.transactions]
    order, steps = words[0], [word for word in words if isinstance(word, PostSteps)]
    trace = next((unpack_trace(word.trace) for word in words if isinstance(word, PostTrace)), ())
    step = next((word.step for word in words if isinstance(word, NameStep)), 0)
    operator = next((word.operator for word in words if isinstance(word, NameOperator)), 0)
    said, of = (_read_steps(evidence, steps[0], state), f" of step {step}") if steps else (None, "")
    if not trace and _count_judges(evidence):
        text = "what the worker gave: validators ran the whole model on what the ledger held of the leaf, not this file"
        return Finding("argued", False, text)
    if not trace:
        return Finding("argued", False, f"what each operator{of} gave: the worker did not say")
    if said is not None:
        verify_step_binding(trace, said, step)
    elif order.receipt and not steps:
        verify_binding(trace, evidence.claim.input_digest, order.receipt[0].output_digest)
    exhibits = [word.exhibit for word in words if isinstance(word, PostExhibit)]
    if not exhibits:
        return Finding("argued", False, f"what operator {operator}{of} took: the worker did not say")
    for exhibit in exhibits[0]:
        misfit = _find_misfit(said, step, trace, operator, exhibit) if steps else find_misfit(trace, operator, exhibit)
        if misfit:
            raise InvalidProof(misfit)
    if steps and said is None:
        text = f"that what the worker showed{of} follows from its text: no ledger that knows the model was given"
        return Finding("argued", False, text)
    text = f"the worker's trace of {len(trace) - 1} operators{of}, and what operator {operator} of them took"
    return Finding("argued", True, text)


def _read_steps(evidence: Evidence, shown: PostSteps, state: State | None) -> Said | None:
    """The text and its steps as the worker showed them; None without the model, whose form says how to read them."""
    if compute_tensors_digest(shown.inputs) != evidence.claim.input_digest:
        raise InvalidProof("the worker showed the steps of another request")
    for receipt in evidence.transactions[0].content.receipt:
        if compute_tensors_digest(shown.outputs) != receipt.output_digest:
            raise InvalidProof("the worker showed the steps of another answer")
    model = state.models.get(evidence.claim.model) if state is not None else None
    form = read_form(model.inputs, model.outputs) if model is not None else None
    return read_generated(Generated(shown.inputs, shown.outputs), form) if form is not None else None


def _find_misfit(said: Said | None, step: int, trace: Trace, operator: int, exhibit: Exhibit) -> str:
    """Why this cannot be what a part of a step took, as far as it can be said without knowing the model."""
    if said is not None:
        return find_step_misfit(said, step, trace, operator, exhibit)
    return "" if operator == ASSEMBLY else find_misfit(trace, operator, exhibit)


def _find_judged(evidence: Evidence) -> Finding:
    judges = {item.account: item.content for item in evidence.transactions if isinstance(item.content, JudgeOperator)}
    if len(judges) != _count_judges(evidence):
        raise InvalidProof("somebody has judged twice")
    wrong = [account for account, word in judges.items() if word.judgement != Judgement.SOUND]
    if not wrong:
        return Finding("judged", False, "that anybody ran the operator: the worker lost by its silence")
    names = ", ".join(format_account(account) for account in sorted(wrong))
    return Finding("judged", True, f"{len(wrong)} of {len(judges)} judges found the worker wrong: {names}")


def _count_judges(evidence: Evidence) -> int:
    return sum(isinstance(item.content, JudgeOperator) for item in evidence.transactions)


def _find_slashed(evidence: Evidence, state: State | None) -> Finding:
    wrong = None if state is None else state.wrong.get(compute_claim_id(evidence.claim))
    if wrong is None:
        return Finding("slashed", False, "that the worker lost stake: no ledger that says so was given")
    return Finding(
        "slashed", True, f"account {format_account(wrong.worker)} lost {wrong.slashed} grains for this claim"
    )
