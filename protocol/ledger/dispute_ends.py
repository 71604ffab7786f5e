"""How a dispute ends: the worker is slashed, the challenger loses its bond, or both go as they came."""

from protocol.jobs import Claim, compute_claim_id
from protocol.ledger.batches import forfeit_claimed, give_back_leaf
from protocol.ledger.dispute_records import Dispute, ProvenWrong
from protocol.ledger.draft import Draft
from protocol.ledger.flows import Party, Source
from protocol.ledger.pools import compute_delegation_key
from protocol.ledger.runs import give_back_run
from protocol.ledger.staking import slash
from protocol.types import BP


def condemn_worker(draft: Draft, dispute: Dispute) -> None:
    """Slash the worker once, note its claim, forfeit the batch or run with it. Whoever disputes it has been right."""
    _end_all(draft, dispute.claim)
    slashed = slash(draft, dispute.worker, dispute.challenger, draft.params.slash_bp)
    draft.wrong.put(compute_claim_id(dispute.claim), ProvenWrong(dispute.claim.epoch, dispute.worker, slashed))
    draft.count_work(dispute.worker, wrong=1, lost=slashed)
    forfeit_claimed(draft, dispute.worker, dispute.claim)
    give_back_run(draft, dispute.claim)


def condemn_challenger(draft: Draft, key: bytes, dispute: Dispute) -> None:
    """Take the bond: the worker gets the reporter's part for its trouble, the rest burns.

    The worker gets nothing if it has stake behind the challenger, as with every slash.
    """
    draft.disputes.delete(key)
    is_involved = draft.delegations.get(compute_delegation_key(dispute.challenger, dispute.worker)) is not None
    reward = 0 if is_involved else dispute.bond * draft.params.reporter_bp // BP
    draft.earn(Source.BOND, Party.INFERENCE, dispute.worker, reward)
    draft.burn(Source.BOND, dispute.bond - reward)
    draft.count_work(dispute.challenger, minority=1, lost=dispute.bond)


def part_undecided(draft: Draft, dispute: Dispute) -> None:
    """Validators have not decided: the client has its money back, challengers their bonds, and nobody is slashed."""
    _end_all(draft, dispute.claim)
    give_back_leaf(draft, dispute.worker, dispute.claim)
    give_back_run(draft, dispute.claim)


def _end_all(draft: Draft, claim: Claim) -> None:
    """End every dispute about a claim; the bonds go back."""
    for key, other in list(draft.disputes.items()):
        if other.claim == claim:
            draft.disputes.delete(key)
            draft.credit(other.challenger, other.bond)
