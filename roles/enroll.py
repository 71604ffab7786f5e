"""Whether this node may serve its roles, and the registration that gets it there."""

from collections.abc import Sequence

from protocol.ledger.state import State
from protocol.ledger.transactions import RegisterNode, prove_possession
from roles.core_effects import NodeKeys
from roles.role import Role

UNBONDED_ROLES = ("client",)
REGISTER_AGAIN_MS = 30_000


class Enroller:
    """Compares the account's node record on the ledger with the roles this node runs."""

    def __init__(self, keys: NodeKeys, roles: Sequence[Role]) -> None:
        self._keys = keys
        self._roles = roles
        self._names = tuple(role.name for role in roles if role.name not in UNBONDED_ROLES)
        self._asked_ms = -REGISTER_AGAIN_MS

    def is_bonded(self, state: State) -> bool:
        """Every role that asks for a bond is registered to our node key with at least that bond."""
        names = [name for name in self._names if state.params.get_bond_min(name)]
        if not names:
            return True
        record = state.nodes.get(self._keys.account.public)
        if record is None or record.node != self._keys.node.public:
            return False
        return all(name in record.roles and record.bond >= state.params.get_bond_min(name) for name in names)

    def get_registration(self, state: State, now_ms: int) -> RegisterNode | None:
        """What to submit so that `is_bonded` holds; None when it does or was just asked for."""
        if not self._names or self.is_bonded(state) or now_ms < self._asked_ms + REGISTER_AGAIN_MS:
            return None
        self._asked_ms = now_ms
        record = state.nodes.get(self._keys.account.public)
        bond_wanted = max(state.params.get_bond_min(name) for name in self._names)
        bond_held = record.bond if record is not None else 0
        body = RegisterNode(
            node=self._keys.node.public,
            vote=self._keys.vote.public if self._keys.vote is not None else b"",
            roles=self._names,
            models=tuple(sorted({model for role in self._roles for model in role.models})),
            price=max((role.price for role in self._roles), default=0),
            bond=max(0, bond_wanted - bond_held),
            proof=bytes(64),
        )
        return prove_possession(body, self._keys.account.public, self._keys.node)
