"""The due queue: everything the ledger has yet to do of its own accord, by time, kind and id."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from protocol.errors import LocalError
from protocol.ledger.apps import APP_KIND, PASS_KIND, forget_app, forget_pass
from protocol.ledger.batches import (
    BATCH_PAYOUT_KIND,
    OPEN_KIND,
    SAMPLE_KIND,
    pay_out_batch,
    sample,
)
from protocol.ledger.channels import WITHDRAW_KIND, withdraw
from protocol.ledger.checks import ATTEST_KIND, DIGEST_KIND, close_attestations, close_digests
from protocol.ledger.contests import CONTEST_KIND, end_contest
from protocol.ledger.demands import DEMAND_KIND, FORGET_KIND, close_demand, forget_demand
from protocol.ledger.dispute_records import DisputePhase
from protocol.ledger.disputes import DISPUTE_KIND, close_phase
from protocol.ledger.draft import Draft
from protocol.ledger.epochs import EPOCH_KIND
from protocol.ledger.escrow import JOB_KIND, refund_job
from protocol.ledger.feeds import FEED_KIND, OBSERVER_KIND, forget_feed, forget_observer
from protocol.ledger.governance import FORCE_KIND, VOTE_END_KIND, end_vote, enforce
from protocol.ledger.lease_audits import ANSWER_KIND, begin_audit, end_audit
from protocol.ledger.lease_places import PLACE_KIND, close_places
from protocol.ledger.leases import AUDIT_KIND
from protocol.ledger.models import MODEL_KIND, release_model
from protocol.ledger.openings import close_openings
from protocol.ledger.records import DueItem
from protocol.ledger.settlement import PAYOUT_KIND, pay_out
from protocol.ledger.staking import UNBOND_KIND, mature_unbonding
from protocol.ledger.state import State
from protocol.ledger.vesting import VEST_KIND, release
from protocol.ledger.withheld import WITHHELD_KIND, close_withheld
from protocol.ledger.workflows import END_KIND, TICK_KIND, finish, fire

Handler = Callable[[Draft, DueItem], None]


def _note_epoch_end(draft: Draft, _: DueItem) -> None:
    """The change itself is the block's last act, so that it counts from the next block on."""
    draft.is_epoch_over = True


def after_grace(handler: Handler) -> Handler:
    """For deadlines that punish silence: the first block to reach one puts it off, once, and only then it fires.

    Whoever was silent because the ledger was, has the grace to speak. Source: PROTOCOL, "Header time".
    """

    def put_off_or_fire(draft: Draft, item: DueItem) -> None:
        if item.graced:
            handler(draft, item)
        else:
            draft.plan(replace(item, time_ms=draft.time_ms + draft.params.grace_ms, graced=1))

    return put_off_or_fire


_handlers: dict[int, Handler] = {
    EPOCH_KIND: _note_epoch_end,
    PAYOUT_KIND: pay_out,
    WITHDRAW_KIND: after_grace(withdraw),
    UNBOND_KIND: mature_unbonding,
    VEST_KIND: release,
    JOB_KIND: after_grace(refund_job),
    SAMPLE_KIND: sample,
    OPEN_KIND: after_grace(close_openings),
    ATTEST_KIND: after_grace(close_attestations),
    DIGEST_KIND: after_grace(close_digests),
    BATCH_PAYOUT_KIND: pay_out_batch,
    MODEL_KIND: release_model,
    WITHHELD_KIND: after_grace(close_withheld),
    CONTEST_KIND: after_grace(end_contest),
    DEMAND_KIND: after_grace(close_demand),
    FORGET_KIND: forget_demand,
    AUDIT_KIND: begin_audit,
    ANSWER_KIND: after_grace(end_audit),
    PLACE_KIND: close_places,
    FEED_KIND: forget_feed,
    OBSERVER_KIND: forget_observer,
    TICK_KIND: fire,
    END_KIND: finish,
    VOTE_END_KIND: after_grace(end_vote),
    FORCE_KIND: enforce,
    PASS_KIND: forget_pass,
    APP_KIND: forget_app,
    **{DISPUTE_KIND + phase: after_grace(close_phase) for phase in DisputePhase},
}
HANDLERS: Mapping[int, Handler] = MappingProxyType(_handlers)


def register_due_kind(kind: int, handler: Handler) -> None:
    """Say what a new kind of due item does when its time comes. LocalError on a clash."""
    if _handlers.setdefault(kind, handler) is not handler:
        raise LocalError(f"due kind {kind} is taken")


def run_due(draft: Draft) -> None:
    """Carry out what is due at the draft's time, in order, at most `due_items_max`; the rest stays due."""
    due = [(key, item) for key, item in draft.due.items() if item.time_ms <= draft.time_ms]
    for key, item in due[: draft.params.due_items_max]:
        draft.due.delete(key)
        HANDLERS[item.kind](draft, item)


def next_due_ms(state: State, but: int | None = None) -> int | None:
    """When the next waking item calls for a block, of another kind than `but` if that is given; None for none."""
    return min((item.time_ms for item in state.due.values() if item.waking and item.kind != but), default=None)
