"""Proposals: what the holders of stake can change, and how it comes about.

A proposal costs a deposit and is voted on for a while (`governance_votes`). One that passes waits for its delay, so
that whoever disagrees can leave, and is then carried out in whole or not at all. The deposit goes back unless the
proposal is vetoed or too few vote. There is no other way to any of it: no key overrides a vote. Source: PROTOCOL,
"Store, data, schedule, votes".
"""

from dataclasses import replace

from protocol.errors import InvalidTransaction
from protocol.fast_dataclass import fast_dataclass
from protocol.ledger.context import TransactionContext
from protocol.ledger.draft import Draft
from protocol.ledger.errors import LimitReached
from protocol.ledger.feed_records import FeedTerms
from protocol.ledger.feeds import FeedSource, find_fault, get_feed, put_feed, retire_feed
from protocol.ledger.flows import Source
from protocol.ledger.governance_errors import InvalidProposal, UnknownProposal
from protocol.ledger.governance_params import change_parameter
from protocol.ledger.governance_records import (
    EnclaveListing,
    Motion,
    Proposal,
    ProposalPhase,
    Tally,
    TreasuryGrant,
)
from protocol.ledger.params import DELAY_MS_MAX, Params
from protocol.ledger.records import DueItem, Vesting
from protocol.ledger.state import State, compute_enclave_key, compute_state_root
from protocol.ledger.transactions import transaction
from protocol.ledger.vesting import VEST_KIND, release
from protocol.types import BP, Line

VOTE_END_KIND = 70
FORCE_KIND = 71
OPEN_MAX = 16
KEPT_MAX = 256  # with those that are over
ENCLAVES_MAX = 256
PARTS_MAX = 1_000
PART_MS_MIN = 1_000
REASON_CHARS_MAX = 120


@transaction(68)
@fast_dataclass(frozen=True)
class Propose:
    """Puts a motion to the vote. Its id is that of the transaction."""

    title: Line
    motion: Motion


def compute_stake(state: State) -> int:
    """All that can vote: what is bonded and what is delegated."""
    return sum(node.bond for node in state.nodes.values()) + sum(pool.delegated for pool in state.pools.values())


def compute_outcome(tally: Tally, stake: int, params: Params) -> ProposalPhase:
    """How a vote of so much stake ends.

    >>> compute_outcome(Tally(yes=60, no=40), 200, Params()), compute_outcome(Tally(yes=60), 200, Params())
    (<ProposalPhase.PASSED: 'passed'>, <ProposalPhase.NO_QUORUM: 'no quorum'>)
    """
    if not tally.total or tally.total * BP < params.proposal_quorum_bp * stake:
        return ProposalPhase.NO_QUORUM
    if tally.veto * BP > params.proposal_veto_bp * tally.total:
        return ProposalPhase.VETOED
    if tally.yes * BP > params.proposal_threshold_bp * (tally.yes + tally.no + tally.veto):
        return ProposalPhase.PASSED
    return ProposalPhase.REJECTED


def apply_propose(draft: Draft, context: TransactionContext, body: Propose) -> None:
    if not body.title.strip() or not body.title.isprintable():
        raise InvalidProposal("a proposal has a title, of one line")
    _verify_motion(draft, body.motion)
    _make_room(draft)
    params = draft.params
    draft.debit(context.account, params.proposal_deposit)
    proposal = Proposal(
        proposer=context.account,
        title=body.title,
        motion=body.motion,
        deposit=params.proposal_deposit,
        height=draft.base.height,
        root=compute_state_root(draft.base),
        stake=compute_stake(draft.base),
        due_ms=draft.time_ms + params.proposal_voting_ms,
    )
    draft.proposals.put(context.id, proposal)
    draft.plan(DueItem(proposal.due_ms, VOTE_END_KIND, context.id, waking=1, graced=0))


def get_proposal(draft: Draft, proposal_id: bytes) -> Proposal:
    """UnknownProposal for one that never was or is forgotten."""
    proposal = draft.proposals.get(proposal_id)
    if proposal is None:
        raise UnknownProposal(proposal_id)
    return proposal


def end_vote(draft: Draft, item: DueItem) -> None:
    """Due: the vote is over. What passed comes into force after its delay; the deposit goes back or burns."""
    proposal = get_proposal(draft, item.id)
    for key, _ in list(draft.ballots.items_under(item.id)):
        draft.ballots.delete(key)
    phase = compute_outcome(proposal.tally, proposal.stake, draft.params)
    if phase in (ProposalPhase.VETOED, ProposalPhase.NO_QUORUM):
        draft.burn(Source.DEPOSIT, proposal.deposit)
    else:
        draft.credit(proposal.proposer, proposal.deposit)
    due_ms = draft.time_ms
    if phase == ProposalPhase.PASSED:
        due_ms += draft.params.proposal_delay_ms
        draft.plan(DueItem(due_ms, FORCE_KIND, item.id, waking=1, graced=0))
    draft.proposals.put(item.id, replace(proposal, phase=phase, due_ms=due_ms, deposit=0))


def enforce(draft: Draft, item: DueItem) -> None:
    """Due: what passed is carried out; if that cannot be any more, nothing of it is."""
    proposal = replace(get_proposal(draft, item.id), due_ms=draft.time_ms)
    mark = draft.mark()
    try:
        _carry_out(draft, item.id, proposal.motion)
    except InvalidTransaction as error:
        draft.go_back(mark)
        reason = str(error)[:REASON_CHARS_MAX]
        draft.proposals.put(item.id, replace(proposal, phase=ProposalPhase.FAILED, reason=reason))
        return
    draft.proposals.put(item.id, replace(proposal, phase=ProposalPhase.IN_FORCE))


def _carry_out(draft: Draft, proposal_id: bytes, motion: Motion) -> None:
    for change in motion.parameter:
        draft.params = change_parameter(draft.params, change.name, change.value)
        draft.base_fee = max(draft.base_fee, draft.params.base_fee_min)
    for grant in motion.grant:
        _pay(draft, proposal_id, grant)
    for listing in motion.enclave:
        _list_enclave(draft, listing)
    for terms in motion.feed:
        put_feed(draft, terms)
    for name in motion.feed_end:
        retire_feed(draft, get_feed(draft, name)[0])


def _pay(draft: Draft, proposal_id: bytes, grant: TreasuryGrant) -> None:
    """Take all of a grant out of the treasury. It vests under the proposal's id, so each payment names its vote."""
    if draft.treasury < grant.amount:
        raise InvalidProposal(f"the treasury has {draft.treasury} grains, {grant.amount} are granted")
    draft.treasury -= grant.amount
    entry = Vesting(grant.to, grant.amount, 0, draft.time_ms, max(grant.part_ms, 1), grant.parts)
    draft.vesting.put(proposal_id, entry)
    release(draft, DueItem(draft.time_ms, VEST_KIND, proposal_id, waking=0, graced=0))


def _list_enclave(draft: Draft, listing: EnclaveListing) -> None:
    key = compute_enclave_key(listing.enclave)
    if not listing.is_trusted:
        draft.enclaves.delete(key)
        return
    if draft.enclaves.get(key) is None and len(draft.enclaves) >= ENCLAVES_MAX:
        raise LimitReached("trusted enclaves", len(draft.enclaves), ENCLAVES_MAX)
    draft.enclaves.put(key, listing.enclave)


def _verify_motion(draft: Draft, motion: Motion) -> None:
    """InvalidProposal, or what else is wrong with it, for a motion that could not be carried out now."""
    parts = (motion.parameter, motion.grant, motion.enclave, motion.feed, motion.feed_end)
    if sum(map(len, parts)) != 1:
        raise InvalidProposal("a proposal moves exactly one thing")
    for change in motion.parameter:
        change_parameter(draft.params, change.name, change.value)
    for grant in motion.grant:
        _verify_grant(draft, grant)
    for listing in motion.enclave:
        if bool(listing.is_trusted) == (draft.enclaves.get(compute_enclave_key(listing.enclave)) is not None):
            raise InvalidProposal("the list of enclaves says so already")
    for terms in motion.feed:
        _verify_feed(draft, terms)
    for name in motion.feed_end:
        if get_feed(draft, name)[0].source == FeedSource.WORKFLOW:
            raise InvalidProposal(f"feed {name!r} ends with its workflow")


def _verify_grant(draft: Draft, grant: TreasuryGrant) -> None:
    if grant.amount > draft.treasury:
        raise InvalidProposal(f"the treasury has {draft.treasury} grains, {grant.amount} are asked for")
    if not 1 <= grant.parts <= min(PARTS_MAX, grant.amount):
        raise InvalidProposal(f"a grant has 1 to {PARTS_MAX} parts, none of them empty, not {grant.parts}")
    is_streamed = grant.parts > 1
    if is_streamed != (grant.part_ms > 0) or (is_streamed and not _is_part(grant)):
        most = DELAY_MS_MAX // PARTS_MAX
        raise InvalidProposal(f"parts come every {PART_MS_MIN} to {most} ms, a single one at once, not {grant.part_ms}")


def _is_part(grant: TreasuryGrant) -> bool:
    return PART_MS_MIN <= grant.part_ms <= DELAY_MS_MAX // PARTS_MAX


def _verify_feed(draft: Draft, terms: FeedTerms) -> None:
    if terms.owner or terms.deposit or terms.retired_ms:
        raise InvalidProposal("a feed that is voted in is nobody's, has no deposit and is not retired")
    reason = find_fault(terms)
    if reason:
        raise InvalidProposal(reason)
    if draft.feed_terms.get(terms.name) is not None:
        raise InvalidProposal(f"the ledger has a feed {terms.name!r} already")


def _make_room(draft: Draft) -> None:
    """For one more proposal: the one that has been over for longest is forgotten, unless its grant still flows."""
    held = list(draft.proposals.items())
    still_open = sum(proposal.is_open for _, proposal in held)
    if still_open >= OPEN_MAX:
        raise LimitReached("proposals that are open", still_open, OPEN_MAX)
    over = [(item.due_ms, key) for key, item in held if not item.is_open and draft.vesting.get(key) is None]
    if len(held) >= KEPT_MAX:
        if not over:
            raise LimitReached("proposals", len(held), KEPT_MAX)
        draft.proposals.delete(min(over)[1])
