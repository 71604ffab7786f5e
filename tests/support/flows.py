"""What a block says it paid, held against what its state has more of."""

from protocol.ledger.flows import Flow, Party, Source
from protocol.ledger.governance_records import ProposalPhase
from protocol.ledger.state import State


def sum_flows(flows: tuple[Flow, ...], *parties: Party) -> int:
    return sum(flow.amount for flow in flows if flow.party in parties)


def verify_flows(before: State, after: State) -> None:
    """AssertionError unless treasury, fire and grantees have what the flows of the block say."""
    assert all(flow.amount > 0 for flow in after.flows)
    granted = sum(
        grant.amount
        for key, proposal in after.proposals.items()
        if proposal.phase == ProposalPhase.IN_FORCE
        and (key not in before.proposals or before.proposals[key].phase != ProposalPhase.IN_FORCE)
        for grant in proposal.motion.grant
    )
    assert sum_flows(after.flows, Party.TREASURY) - granted == _count_treasury(after) - _count_treasury(before)
    assert sum_flows(after.flows, Party.BURN) == _count_burnt(after) - _count_burnt(before)
    paid = tuple(flow for flow in after.flows if flow.source == Source.GRANT)
    assert all(flow.subject in after.proposals for flow in paid)
    assert sum_flows(paid, Party.GRANTEE) == _count_released(after, before) + granted


def _count_treasury(state: State) -> int:
    return state.treasury + sum(entry.treasury for entry in state.pending.values())


def _count_burnt(state: State) -> int:
    return state.burned + sum(entry.burn for entry in state.pending.values())


def _count_released(after: State, before: State) -> int:
    """How much less of what was granted is held back; less than nothing where a grant has come into force."""

    def count_held(state: State) -> int:
        return sum(item.amount - item.released for key, item in state.vesting.items() if key in after.proposals)

    return count_held(before) - count_held(after)
