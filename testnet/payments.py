"""What came into the treasury and what left it, block by block: every payment with the proposal that granted it."""

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

from protocol.keys import format_account
from protocol.ledger.block import Block
from protocol.ledger.flows import Party, Source
from protocol.ledger.governance_records import ProposalPhase
from protocol.ledger.state import State


@dataclass
class Payments:
    """`newest` are the last payments of grants, as rows; sums in grains are over all blocks.

    What is granted leaves the treasury whole when it comes into force, and is paid by and by.
    """

    newest: deque[dict[str, Any]]
    count: int = 0
    paid: int = 0
    granted: int = 0
    genesis: int | None = None
    came_in: Counter[Source] = field(default_factory=Counter)

    def take(self, before: State, block: Block, after: State) -> None:
        """Add one block. Of inference, what the treasury gets is told when its fee is divided, ahead of its window."""
        if self.genesis is None:
            self.genesis = before.treasury
        for flow in after.flows:
            if flow.party == Party.TREASURY:
                self.came_in[flow.source] += flow.amount
            elif flow.source == Source.GRANT:
                proposal = after.proposals[flow.subject]
                self.count += 1
                self.paid += flow.amount
                self.newest.append(
                    {
                        "height": after.height,
                        "time_ms": after.time_ms,
                        "amount_grains": flow.amount,
                        "to": format_account(flow.account),
                        "proposal": flow.subject.hex(),
                        "title": proposal.title,
                        "yes_grains": proposal.tally.yes,
                        "stake_grains": proposal.stake,
                    }
                )
        self.granted += sum(
            grant.amount
            for key, proposal in after.proposals.items()
            if proposal.phase == ProposalPhase.IN_FORCE
            and (key not in before.proposals or before.proposals[key].phase != ProposalPhase.IN_FORCE)
            for grant in proposal.motion.grant
        )

    def compute_balance(self, state: State) -> int:
        """What the treasury must have in the state after the last block, by what was told alone."""
        began = state.treasury if self.genesis is None else self.genesis
        waiting = sum(entry.treasury for entry in state.pending.values())
        return began + sum(self.came_in.values()) - waiting - self.granted
