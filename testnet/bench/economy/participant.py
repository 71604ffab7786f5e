"""Whoever takes part: an account with a role, a way to play it, and what that costs outside of the ledger."""

from collections.abc import Sequence
from dataclasses import dataclass

from protocol.ledger.state import State
from protocol.ledger.transactions import RegisterNode, Unstake
from testnet.bench.economy.chain import Chain
from testnet.bench.economy.costs import Costs


@dataclass(kw_only=True)
class Participant:
    """`cost` is what it has spent on work so far, in grains, `rows` what it has run.

    Gone, it does and answers nothing any more.
    """

    name: str
    account: bytes
    node: bytes
    role: str
    costs: Costs
    upkeep: int  # an epoch, whatever it does
    cost: int = 0
    rows: int = 0
    is_gone: bool = False
    is_leaving: bool = False

    @property
    def number(self) -> int:
        """Its place among those of its role."""
        return int(self.name.rpartition("-")[2])

    def act(self, chain: Chain) -> None:
        """Do what the last state asks for."""

    def run_rows(self, rows: int) -> None:
        """Run the model."""
        self.rows += rows
        self.cost += rows * self.costs.row

    def is_serving(self, state: State) -> bool:
        """Whether the ledger draws it for its role in the running epoch."""
        snapshot = state.get_epoch(state.epoch)
        candidate = snapshot.find_account(self.account) if snapshot is not None else None
        return candidate is not None and self.role in candidate.roles

    def pay_upkeep(self, state: State) -> None:
        """Once an epoch."""
        if not self.is_gone and self.is_serving(state):
            self.cost += self.upkeep

    def join(self, chain: Chain, models: Sequence[bytes], price: int) -> None:
        """Register with the bond the role asks for."""
        known = chain.state.nodes.get(self.account)
        need = chain.state.params.get_bond_min(self.role) - (known.bond if known is not None else 0)
        vote = chain.votes[self.account].public if self.account in chain.votes else b""
        body = RegisterNode(self.node, vote, (self.role,), tuple(models), price, max(need, 0), bytes(64), b"")
        chain.submit(self.account, body)

    def leave(self) -> None:
        """Take no more work, and the bond back as soon as what is done is settled."""
        self.is_leaving = True

    def take_stake_back(self, chain: Chain) -> None:
        """Ask for the bond, if it is leaving; what the ledger asks about past work is answered all the same."""
        node = chain.state.nodes.get(self.account)
        if self.is_leaving and node is not None and node.bond:
            chain.submit(self.account, Unstake(node.bond))
            self.is_leaving = False
