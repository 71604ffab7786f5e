"""Apply blocks to states, and build blocks that apply.

`apply_block` is a pure function: the same state and block give the same new state everywhere, and its input stays as it
was. First what is due, then the transactions in order, then, if an epoch is over, its change.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from protocol.errors import BadSignature, InvalidBlock, InvalidTransaction, LocalError, MalformedMessage, NonceMismatch
from protocol.ledger.apps import (
    BuyPass,
    RegisterApp,
    ReportUse,
    RetireApp,
    apply_buy_pass,
    apply_register_app,
    apply_report_use,
    apply_retire_app,
)
from protocol.ledger.batches import BatchSettle, SettlePrivate, apply_batch_settle, apply_settle_private
from protocol.ledger.block import (
    HEADER_TIME_MS_MAX,
    TRANSACTIONS_MAX,
    Block,
    Header,
    compute_block_id,
    compute_transactions_root,
    compute_validators_digest,
    get_validators,
)
from protocol.ledger.channels import apply_close_channel, apply_open_channels, apply_top_up_channel
from protocol.ledger.checks import (
    AttestLeaves,
    RevealDigests,
    ShowOutputs,
    apply_attest_leaves,
    apply_reveal_digests,
    apply_show_outputs,
)
from protocol.ledger.contests import ContestRun, apply_contest_run
from protocol.ledger.context import TransactionContext
from protocol.ledger.demands import DemandOpening, OpenClaim, apply_demand_opening, apply_open_claim
from protocol.ledger.disputes import (
    JudgeOperator,
    NameOperator,
    OpenDispute,
    PostExhibit,
    PostTrace,
    apply_judge_operator,
    apply_name_operator,
    apply_name_step,
    apply_open_dispute,
    apply_post_exhibit,
    apply_post_steps,
    apply_post_trace,
)
from protocol.ledger.draft import Draft
from protocol.ledger.due import next_due_ms, run_due
from protocol.ledger.epochs import end_epoch
from protocol.ledger.errors import (
    ExpiredTransaction,
    InvalidSignature,
    MalformedBody,
    NotYet,
    UnknownTransactionKind,
    WrongChainTransaction,
)
from protocol.ledger.escrow import (
    OpenJob,
    RefuseJob,
    SettleJob,
    apply_open_job,
    apply_refuse_job,
    apply_settle_job,
)
from protocol.ledger.evidence import SubmitEvidence, apply_submit_evidence
from protocol.ledger.feeds import (
    AccuseObserver,
    ObserveFeed,
    RegisterFeed,
    RetireFeed,
    apply_accuse_observer,
    apply_observe_feed,
    apply_register_feed,
    apply_retire_feed,
)
from protocol.ledger.fees import BLOCK_UNITS_MAX, charge_fee, compute_base_fee, compute_fee, count_units, divide_fees
from protocol.ledger.governance import Propose, apply_propose
from protocol.ledger.governance_votes import CastVote, apply_cast_vote
from protocol.ledger.lease_audits import AnswerAudit, apply_answer_audit
from protocol.ledger.leases import (
    KeepBlob,
    LeaseBlob,
    OfferSpace,
    apply_keep_blob,
    apply_lease_blob,
    apply_offer_space,
)
from protocol.ledger.models import RegisterModel, RetireModel, apply_register_model, apply_retire_model
from protocol.ledger.money import apply_transfer
from protocol.ledger.nodes import apply_register_node, apply_rotate_keys
from protocol.ledger.openings import OpenLeaves, apply_open_leaves
from protocol.ledger.oracle import apply_report_oracle
from protocol.ledger.randomness import apply_commit_onion, mix_seed
from protocol.ledger.settlement import apply_settle_individual
from protocol.ledger.signatures import verify_transaction
from protocol.ledger.staking import apply_delegate, apply_stake, apply_undelegate, apply_unstake
from protocol.ledger.state import State, compute_state_root
from protocol.ledger.step_disputes import NameStep, PostSteps
from protocol.ledger.transactions import (
    CloseChannel,
    CommitOnion,
    Delegate,
    OpenChannels,
    RegisterNode,
    ReportOracle,
    RotateKeys,
    SettleIndividual,
    Stake,
    TopUpChannel,
    Transaction,
    Transfer,
    Undelegate,
    Unstake,
    get_transaction_body,
    get_transaction_kind,
    read_transaction,
)
from protocol.ledger.withheld import (
    ChallengeWithheld,
    PublishOutput,
    apply_challenge_withheld,
    apply_publish_output,
)
from protocol.ledger.workflows import AddWorkflow, EndWorkflow, apply_add_workflow, apply_end_workflow

__all__ = [
    "apply_block",
    "apply_transaction",
    "build_block",
    "can_hold",
    "check_transaction",
    "decode_transactions",
    "next_due_ms",
    "register_rule",
]

Rule = Callable[[Draft, TransactionContext, Any], None]
_rules: dict[type, Rule] = {
    Transfer: apply_transfer,
    RegisterNode: apply_register_node,
    RotateKeys: apply_rotate_keys,
    CommitOnion: apply_commit_onion,
    Stake: apply_stake,
    Unstake: apply_unstake,
    Delegate: apply_delegate,
    Undelegate: apply_undelegate,
    SubmitEvidence: apply_submit_evidence,
    OpenJob: apply_open_job,
    SettleJob: apply_settle_job,
    RefuseJob: apply_refuse_job,
    BatchSettle: apply_batch_settle,
    OpenLeaves: apply_open_leaves,
    AttestLeaves: apply_attest_leaves,
    RevealDigests: apply_reveal_digests,
    ShowOutputs: apply_show_outputs,
    SettlePrivate: apply_settle_private,
    OpenChannels: apply_open_channels,
    TopUpChannel: apply_top_up_channel,
    CloseChannel: apply_close_channel,
    SettleIndividual: apply_settle_individual,
    OpenDispute: apply_open_dispute,
    PostTrace: apply_post_trace,
    PostSteps: apply_post_steps,
    NameStep: apply_name_step,
    NameOperator: apply_name_operator,
    PostExhibit: apply_post_exhibit,
    JudgeOperator: apply_judge_operator,
    ChallengeWithheld: apply_challenge_withheld,
    PublishOutput: apply_publish_output,
    DemandOpening: apply_demand_opening,
    OpenClaim: apply_open_claim,
    ReportOracle: apply_report_oracle,
    RegisterFeed: apply_register_feed,
    RetireFeed: apply_retire_feed,
    ObserveFeed: apply_observe_feed,
    AccuseObserver: apply_accuse_observer,
    AddWorkflow: apply_add_workflow,
    ContestRun: apply_contest_run,
    EndWorkflow: apply_end_workflow,
    RegisterModel: apply_register_model,
    RetireModel: apply_retire_model,
    OfferSpace: apply_offer_space,
    LeaseBlob: apply_lease_blob,
    KeepBlob: apply_keep_blob,
    AnswerAudit: apply_answer_audit,
    Propose: apply_propose,
    CastVote: apply_cast_vote,
    RegisterApp: apply_register_app,
    RetireApp: apply_retire_app,
    BuyPass: apply_buy_pass,
    ReportUse: apply_report_use,
}


def register_rule(body: type, rule: Rule) -> None:
    """Say what a registered body does to a draft. LocalError when it has a rule or no kind."""
    get_transaction_kind(body)
    if _rules.setdefault(body, rule) is not rule:
        raise LocalError(f"{body.__name__} has a rule already")


def apply_block(state: State, block: Block, check_signatures: bool = True) -> State:
    """The state after `block`. InvalidBlock says what is wrong with it.

    With `check_signatures` False Ed25519 signatures, and only they, go unchecked: for followers of certified blocks,
    whose validators have checked them. Certificate and header time against a clock are the caller's (`block`).
    """
    header = block.header
    _verify_header(state, header)
    units = sum(count_units(len(data)) for data in block.transactions)
    if units > BLOCK_UNITS_MAX or len(block.transactions) > TRANSACTIONS_MAX:
        count = len(block.transactions)
        raise InvalidBlock(
            f"{count} transactions of {units} units, allowed are {TRANSACTIONS_MAX} of {BLOCK_UNITS_MAX}"
        )
    if compute_transactions_root(block.transactions) != header.transactions_root:
        raise InvalidBlock(f"block {header.height}: the transactions are not those of the header")
    draft = _begin(state, header.time_ms)
    for index, data in enumerate(block.transactions):
        try:
            apply_transaction(draft, read_transaction(data), check_signatures)
        except (InvalidTransaction, MalformedMessage) as error:
            what = f"block {header.height}, transaction {index}"
            raise InvalidBlock(f"{what}: {type(error).__name__}: {error}") from error
    after = _finish(draft, header.builder, header.reveal, compute_block_id(header))
    root = compute_state_root(after)
    if root != header.state_root:
        told = header.state_root.hex()
        raise InvalidBlock(f"block {header.height}: state root is {root.hex()}, the header says {told}")
    if compute_validators_digest(get_validators(after)) != header.next_validators:
        raise InvalidBlock(f"block {header.height}: the header names other validators for the next height")
    return after


def build_block(
    state: State,
    candidates: Iterable[Transaction],
    time_ms: int,
    builder: bytes,
    check_signatures: bool = True,
    reveal: bytes | None = None,
) -> tuple[Block, State, list[tuple[Transaction, InvalidTransaction]]]:
    """A block on `state` with as many of the candidates as are valid and fit, the state after it, and who was dropped.

    Candidates are tried in order; one whose nonce is ahead waits for those before it, in this block or a later one, and
    is not dropped. `reveal` is the next layer of the builder's onion (`randomness.find_reveal`); without one it earns
    nothing. LocalError when `time_ms` is not after the state's, InvalidBlock for a wrong layer.
    """
    if time_ms <= state.time_ms:
        raise LocalError(f"a block of {time_ms} cannot follow one of {state.time_ms}")
    draft = _begin(state, time_ms)
    chosen, dropped = _choose(draft, candidates, check_signatures)
    after = _finish(draft, builder, reveal or b"", block_id=bytes(32))
    header = Header(
        chain=state.chain,
        height=draft.height,
        parent=state.block_id,
        time_ms=time_ms,
        builder=builder,
        transactions_root=compute_transactions_root(chosen),
        state_root=compute_state_root(after),
        next_validators=compute_validators_digest(get_validators(after)),
        reveal=reveal or b"",
    )
    return Block(header, chosen), replace(after, block_id=compute_block_id(header)), dropped


def check_transaction(
    state: State, transaction: Transaction, time_ms: int | None = None, check_signatures: bool = True
) -> None:
    """InvalidTransaction if no block after `state` could hold the transaction, as far as can be said now.

    `time_ms` is the earliest time of such a block. What is only too early, its nonce being ahead for instance, passes.
    """
    Trial(state, time_ms).check(transaction, check_signatures)


def can_hold(state: State, transaction: Transaction, time_ms: int) -> bool:
    """Whether a block of this time after `state` can begin with a transaction; False if that is only too early.

    InvalidTransaction when no block ever can.
    """
    try:
        apply_transaction(_begin(state, time_ms), transaction, check_signatures=True)
    except NotYet:
        return False
    except NonceMismatch as error:
        if error.got < error.expected:
            raise
        return False
    return True


class Trial:
    """Transactions tried on a state, each as if it were the first of the next block; `time_ms` as above."""

    def __init__(self, state: State, time_ms: int | None = None) -> None:
        self._draft = _begin(state, state.time_ms + 1 if time_ms is None else max(time_ms, state.time_ms + 1))
        self._mark = self._draft.mark()

    def check(self, transaction: Transaction, check_signatures: bool = True) -> None:
        """As `check_transaction`."""
        try:
            apply_transaction(self._draft, transaction, check_signatures)
        except NonceMismatch as error:
            if error.got < error.expected:
                raise
            _verify_signature(transaction, check_signatures)
        except NotYet:
            _verify_signature(transaction, check_signatures)
        finally:
            self._draft.go_back(self._mark)


def apply_transaction(draft: Draft, transaction: Transaction, check_signatures: bool) -> None:
    """Change the draft as a transaction asks, or raise InvalidTransaction and change nothing."""
    mark = draft.mark()
    try:
        _apply(draft, transaction, check_signatures)
    except InvalidTransaction:
        draft.go_back(mark)
        raise


def decode_transactions(block: Block) -> tuple[Transaction, ...]:
    """The transactions of a block that has been applied."""
    return tuple(read_transaction(data) for data in block.transactions)


def _begin(state: State, time_ms: int) -> Draft:
    """A draft of the block after `state`, what is due being done."""
    draft = Draft(state, state.height + 1, time_ms)
    draft.base_fee = compute_base_fee(state.base_fee, time_ms - state.time_ms, state.params)
    run_due(draft)
    return draft


def _finish(draft: Draft, builder: bytes, reveal: bytes, block_id: bytes) -> State:
    mix_seed(draft, builder, reveal)
    divide_fees(draft, builder, earns=bool(reveal))
    if draft.is_epoch_over:
        end_epoch(draft)
    return draft.freeze(block_id)


def _apply(draft: Draft, transaction: Transaction, check_signatures: bool) -> None:
    if transaction.chain != draft.base.chain:
        raise WrongChainTransaction(transaction.chain, draft.base.chain)
    if transaction.valid_until_ms < draft.time_ms:
        raise ExpiredTransaction(transaction.valid_until_ms, draft.time_ms)
    rule, body = _read_body(transaction)
    account = draft.accounts.get(transaction.account)
    expected = account.nonce if account is not None else 0
    if transaction.nonce != expected:
        raise NonceMismatch(expected, transaction.nonce)
    units = count_units(len(transaction.wire))
    base, tip = compute_fee(transaction, units, draft.base_fee, draft.params)
    _verify_signature(transaction, check_signatures)
    charge_fee(draft, transaction.account, base, tip, units)
    rule(draft, TransactionContext(transaction.account, transaction.id, check_signatures), body)


def _read_body(transaction: Transaction) -> tuple[Rule, Any]:
    cls = get_transaction_body(transaction.kind)
    rule = _rules.get(cls)
    if rule is None:
        raise UnknownTransactionKind(transaction.kind)
    try:
        return rule, transaction.content
    except MalformedMessage as error:
        raise MalformedBody(f"{cls.__name__}: {error}") from error


def _verify_signature(transaction: Transaction, check_signatures: bool) -> None:
    if not check_signatures:
        return
    try:
        verify_transaction(transaction)
    except BadSignature as error:
        raise InvalidSignature("Transaction", transaction.account) from error


def _verify_header(state: State, header: Header) -> None:
    if header.chain != state.chain:
        raise InvalidBlock(f"a block of chain {header.chain.hex()}, not of {state.chain.hex()}")
    if header.height != state.height + 1:
        raise InvalidBlock(f"height {header.height} does not follow {state.height}")
    if header.parent != state.block_id:
        raise InvalidBlock(f"parent {header.parent.hex()} is not block {state.height}, {state.block_id.hex()}")
    if header.time_ms <= state.time_ms:
        raise InvalidBlock(f"time {header.time_ms} is not after the parent's {state.time_ms}")
    if header.time_ms > HEADER_TIME_MS_MAX:
        raise InvalidBlock(f"time {header.time_ms} is beyond {HEADER_TIME_MS_MAX}")
    if all(header.builder != validator.account for validator in get_validators(state)):
        raise InvalidBlock(f"builder {header.builder.hex()} is no validator of epoch {state.epoch}")


def _choose(
    draft: Draft, candidates: Iterable[Transaction], check_signatures: bool
) -> tuple[tuple[bytes, ...], list[tuple[Transaction, InvalidTransaction]]]:
    """Apply what can be applied, in order; transactions ahead of their account's nonce follow as soon as they can."""
    chosen: list[bytes] = []
    dropped: list[tuple[Transaction, InvalidTransaction]] = []
    ahead: dict[tuple[bytes, int], Transaction] = {}
    for candidate in candidates:
        transaction: Transaction | None = candidate
        while transaction is not None:
            data = transaction.wire
            if len(chosen) == TRANSACTIONS_MAX or draft.units + count_units(len(data)) > BLOCK_UNITS_MAX:
                return tuple(chosen), dropped
            try:
                apply_transaction(draft, transaction, check_signatures)
            except NonceMismatch as error:
                if error.got < error.expected:
                    dropped.append((transaction, error))
                else:
                    ahead[transaction.account, transaction.nonce] = transaction
                break
            except NotYet:
                break
            except InvalidTransaction as error:
                dropped.append((transaction, error))
                break
            chosen.append(data)
            transaction = ahead.pop((transaction.account, transaction.nonce + 1), None)
    return tuple(chosen), dropped
