"""Whoever takes part: an account with a role, a way to play it, and what that costs outside of the ledger."""

from collections.abc import Sequence
from dataclasses import dataclass

from protocol.ledger.state import State
from protocol.ledger.transactions import RegisterNode, Unstake
from testnet.bench.economy.chain import Chain
from testnet.bench.economy.costs import Costs


@dataclass(kw_only=True)
class Participant:
    """`cost` is what it has spent on work so far, in grains. Gone, it does and answers nothing any more."""

    name: str
    account: bytes
    node: bytes
    role: str
    costs: Costs
    strategy: str = "honest"
    cost: int = 0
    is_gone: bool = False

    def act(self, chain: Chain) -> None:
        """Do what the last state asks for."""

    def is_serving(self, state: State) -> bool:
        """Whether the ledger draws it for its role in the running epoch."""
        snapshot = state.get_epoch(state.epoch)
        candidate = snapshot.find_account(self.account) if snapshot is not None else None
        return candidate is not None and self.role in candidate.roles

    def pay_upkeep(self, state: State) -> None:
        """Once an epoch."""
        if not self.is_gone and self.is_serving(state):
            self.cost += self.costs.epoch

    def join(self, chain: Chain, models: Sequence[bytes], price: int) -> None:
        """Register with the bond the role asks for."""
        known = chain.state.nodes.get(self.account)
        need = chain.state.params.get_bond_min(self.role) - (known.bond if known is not None else 0)
        vote = chain.votes[self.account].public if self.account in chain.votes else b""
        body = RegisterNode(self.node, vote, (self.role,), tuple(models), price, max(need, 0), bytes(64), b"")
        chain.submit(self.account, body)

    def leave(self, chain: Chain) -> None:
        """Take the bond back. What is under way is brought to its end."""
        bond = chain.state.nodes[self.account].bond
        if bond:
            chain.submit(self.account, Unstake(bond))
