"""Evidence against validators: whoever signed what no honest one does loses stake, and its vote for good."""

from dataclasses import replace

from protocol.consensus.evidence import Evidence, NoFault, get_height, verify_evidence
from protocol.fast_dataclass import fast_dataclass
from protocol.ledger.block import get_validators_of
from protocol.ledger.context import TransactionContext
from protocol.ledger.draft import Draft
from protocol.ledger.epochs import wake_epoch_end
from protocol.ledger.errors import AlreadyGuilty, EvidenceTooOld, InvalidEvidence
from protocol.ledger.records import EpochSnapshot, Tombstone
from protocol.ledger.staking import slash
from protocol.ledger.transactions import transaction
from protocol.types import BP


@transaction(15)
@fast_dataclass(frozen=True)
class SubmitEvidence:
    """What a validator has signed, by anybody. The reporter's reward is a part of what the guilty one loses."""

    evidence: Evidence


def apply_submit_evidence(draft: Draft, context: TransactionContext, body: SubmitEvidence) -> None:
    """Slash and tombstone, once for good. The vote signatures in evidence are checked always: there are few."""
    try:
        height = get_height(body.evidence)
        signers = {item.voter for item in (*body.evidence.votes, *body.evidence.proposals)}
        epoch, snapshot = _find_snapshot(draft, height)
        snapshot = _put_back_former(draft, epoch, snapshot, height, signers)
        guilty = verify_evidence(body.evidence, get_validators_of(snapshot), draft.base.chain)
    except NoFault as error:
        raise InvalidEvidence(str(error)) from error
    account = next(item.account for item in snapshot.candidates if item.vote == guilty)
    if draft.tombstones.get(account) is not None:
        raise AlreadyGuilty(account)
    draft.tombstones.put(account, Tombstone(guilty, height, draft.epoch, slashed=0))
    slashed = slash(draft, account, context.account, _compute_share(draft, snapshot))
    draft.tombstones.put(account, Tombstone(guilty, height, draft.epoch, slashed))
    wake_epoch_end(draft)


def _find_snapshot(draft: Draft, height: int) -> tuple[int, EpochSnapshot]:
    """The epoch of a height and who decided it, as long as that can be held against them."""
    if not 0 < height <= draft.height:
        raise InvalidEvidence(f"height {height} is none of 1 to {draft.height}")
    snapshots = list(draft.epochs.items())
    until = draft.epoch
    for epoch, snapshot in reversed(snapshots):
        if snapshot.height <= height:
            oldest = draft.epoch - draft.params.evidence_epochs
            if until < oldest:
                raise EvidenceTooOld(until, oldest)
            return epoch, snapshot
        until = epoch  # when those before this one had decided their last height
    raise EvidenceTooOld(until, draft.epoch - draft.params.evidence_epochs)


def _put_back_former(
    draft: Draft, epoch: int, snapshot: EpochSnapshot, height: int, signers: set[bytes]
) -> EpochSnapshot:
    """A snapshot with the vote keys it had at a height, if restarts have changed them since.

    The height a restart was for has two sets; which one is meant, the signer's key tells.
    """
    for _, restart in reversed(list(draft.restarts.items())):
        former = {item.account: item.vote for item in restart.former}
        last = restart.height + (not signers.isdisjoint(former.values()))
        if restart.epoch == epoch and height <= last:
            candidates = tuple(replace(item, vote=former.get(item.account, item.vote)) for item in snapshot.candidates)
            snapshot = replace(snapshot, candidates=candidates)
    return snapshot


def _compute_share(draft: Draft, snapshot: EpochSnapshot) -> int:
    """The more, the more stake is guilty within the time of evidence: that may have been planned together."""
    params = draft.params
    recent = {
        account for account, stone in draft.tombstones.items() if stone.epoch >= draft.epoch - params.evidence_epochs
    }
    stakes = {item.account: item.weight + item.delegated for item in snapshot.get_candidates("validator")}
    guilty = sum(stake for account, stake in stakes.items() if account in recent)
    together = params.vote_slash_times * BP * guilty // max(sum(stakes.values()), 1)
    return min(BP, params.vote_slash_bp + together)
