"""What a node is to others: its state, its advert, and the registration that lets it serve."""

from collections.abc import Sequence

from protocol.keys import format_node
from protocol.ledger.records import Candidate, EpochSnapshot, NodeRecord
from protocol.ledger.state import State
from protocol.ledger.transactions import RegisterNode, prove_possession
from protocol.messages import Advert
from protocol.topics import ROLES, TOPICS, infer_topic, proofs_topic
from protocol.types import NodeState
from roles.core_effects import NodeKeys
from roles.role import Role

UNBONDED_ROLES = ("client",)
REGISTER_AGAIN_MS = 30_000
ADVERT_MODELS_MAX = 64
_ROTATING = " from the next epoch on; this node takes them up by itself when the epoch ends"
_REPLACED = (
    ", and this node runs with others: nobody asks it, and votes of theirs do not count. Put back the key files whose "
    "public keys those are (`rolemesh keys ls` shows them), or make new ones: `rolemesh keys rotate vote`, then `node`"
)


def list_topics(node: bytes, advert: Advert) -> tuple[str, ...]:
    """Short names of the topics a node listens to, as far as its advert tells; those everybody is on are left out."""
    is_worker = "inference" in advert.roles
    found = {proofs_topic(node), *map(infer_topic, advert.models)} if is_worker else set()
    for name, topic in TOPICS.items():
        is_one = name not in ("infer", "proofs", "oracle")  # these have a topic per shard and per feed
        if is_one and set(topic.listeners) != set(ROLES) and set(topic.listeners) & set(advert.roles):
            found.add(name)
    return tuple(sorted(found))


class Presence:
    """Compares the account's node record on the ledger with the roles this node runs, and describes them."""

    def __init__(self, keys: NodeKeys, roles: Sequence[Role], must_be_reachable: bool = False) -> None:
        self._keys = keys
        self._must_be_reachable = must_be_reachable
        self._is_reachable = not must_be_reachable
        self._roles = roles
        self._names = tuple(role.name for role in roles if role.name not in UNBONDED_ROLES)
        self._asked_ms = -REGISTER_AGAIN_MS
        self._snapshot: EpochSnapshot | None = None  # looked at last; a restart changes that of the running epoch
        self._are_keys_replaced = False
        self._bonded: tuple[State, bool] | None = None

    @property
    def is_ready(self) -> bool:
        return all(role.is_ready for role in self._roles)

    @property
    def is_findable(self) -> bool:
        """Whether others can dial us, as far as that matters: nobody has to find a client."""
        return self._is_reachable or not self._names

    def note_reach(self, is_reachable: bool) -> None:
        """Peers have dialled us back, or could not."""
        self._is_reachable = is_reachable or not self._must_be_reachable

    def compute_state(self, state: State, is_synced: bool) -> NodeState:
        if not (is_synced and self.is_ready):
            return NodeState.SYNCING
        is_serving = self.is_bonded(state) and self.is_findable
        return NodeState.SERVING if is_serving else NodeState.OBSERVING

    def make_advert(self, node_state: NodeState, addresses: tuple[str, ...], height: int) -> Advert:
        return Advert(
            account=self._keys.account.public,
            roles=tuple(role.name for role in self._roles),
            state=str(node_state),
            models=self._models[:ADVERT_MODELS_MAX],
            addresses=addresses,
            price=self._price,
            load=sum(role.load for role in self._roles),
            height=height,
        )

    def is_bonded(self, state: State) -> bool:
        """Every role that asks for a bond is registered to our node key with at least that bond."""
        if self._bonded is None or self._bonded[0] is not state:  # asked after every event
            self._bonded = (state, self._find_bonded(state))
        return self._bonded[1]

    def _find_bonded(self, state: State) -> bool:
        names = [name for name in self._names if state.params.get_bond_min(name)]
        if not names:
            return True
        record = state.nodes.get(self._keys.account.public)
        if record is None or not (record.node == self._keys.node.public or self._is_named(state)):
            return False
        return all(name in record.roles and record.bond >= state.params.get_bond_min(name) for name in names)

    def note_ledger(self, state: State) -> bool:
        """Whether the ledger now names other keys of this node than those it runs with, and did not at first."""
        snapshot = state.get_epoch(state.epoch)
        if snapshot is self._snapshot:
            return False
        is_start, self._snapshot = self._snapshot is None, snapshot
        before, self._are_keys_replaced = self._are_keys_replaced, self._find_replaced(state)
        return self._are_keys_replaced and not (before or is_start)

    def describe_keys(self, state: State) -> dict[str, str]:
        """What `status.json` says when the ledger names other keys for our account, now or from the next epoch on."""
        if not self._names:
            return {}  # a client may spend from the account of a node that runs elsewhere
        named, record = self._get_named(state), state.nodes.get(self._keys.account.public)
        if named is not None and self._is_other(named):
            return {"state": "replaced", "advice": self._advise(named) + _REPLACED}
        if record is None or not self._is_other(record):
            return {}
        if named is None:
            return {"state": "replaced", "advice": self._advise(record) + _REPLACED}
        return {"state": "rotating", "advice": self._advise(record) + _ROTATING}

    def _advise(self, named: Candidate | NodeRecord) -> str:
        node, vote = self._keys.node.public, self._keys.vote
        keys = [f"node key {format_node(named.node)}"] if named.node != node else []
        if named.vote and vote is not None and named.vote != vote.public:
            keys.append(f"vote key {named.vote.hex()}")
        return f"the ledger names {' and '.join(keys)} for this account"

    def _find_replaced(self, state: State) -> bool:
        named = self._get_named(state)
        return named is not None and self._is_other(named)

    def _is_other(self, named: Candidate | NodeRecord) -> bool:
        vote = self._keys.vote.public if self._keys.vote is not None else b""
        return named.node != self._keys.node.public or bool(named.vote and vote and named.vote != vote)

    def _is_named(self, state: State) -> bool:
        """Whether the running epoch knows us by our node key, whatever the next one will."""
        named = self._get_named(state)
        return named is not None and named.node == self._keys.node.public

    def _get_named(self, state: State) -> Candidate | None:
        epoch = state.get_epoch(state.epoch)
        return None if epoch is None else epoch.find_account(self._keys.account.public)

    def get_registration(self, state: State, now_ms: int) -> RegisterNode | None:
        """What to submit so that `is_bonded` holds; None when it does or was just asked for."""
        if self.is_bonded(state) or not self._may_ask(state, now_ms):
            return None
        record = state.nodes.get(self._keys.account.public)
        self._asked_ms = now_ms
        bond_wanted = max(state.params.get_bond_min(name) for name in self._names)
        bond_held = record.bond if record is not None else 0
        body = RegisterNode(
            node=self._keys.node.public,
            vote=self._keys.vote.public if self._keys.vote is not None else b"",
            roles=self._names,
            models=self._list_models(state),
            price=self._price,
            bond=max(0, bond_wanted - bond_held),
            proof=bytes(64),
            vote_proof=b"",
        )
        return self._prove(body)

    def get_update(self, state: State, now_ms: int) -> RegisterNode | None:
        """What to submit so that the node record names every model held; None when it does or was just asked for."""
        record = state.nodes.get(self._keys.account.public)
        models = self._list_models(state)
        if record is None or set(models) <= set(record.models):
            return None
        if not self.is_bonded(state) or not self._may_ask(state, now_ms):
            return None
        self._asked_ms = now_ms
        return self._prove(RegisterNode(record.node, record.vote, record.roles, models, self._price, 0, bytes(64), b""))

    def _may_ask(self, state: State, now_ms: int) -> bool:
        """Not twice in a while, and not for a node with other keys: only `RotateKeys` changes those."""
        record = state.nodes.get(self._keys.account.public)
        is_own = record is None or record.node == self._keys.node.public
        return bool(self._names) and self.is_findable and is_own and now_ms >= self._asked_ms + REGISTER_AGAIN_MS

    def _list_models(self, state: State) -> tuple[bytes, ...]:
        """Those held that a node record may name."""
        return tuple(model for model in self._models if model in state.models)[:ADVERT_MODELS_MAX]

    def _prove(self, body: RegisterNode) -> RegisterNode:
        return prove_possession(body, self._keys.account.public, self._keys.node, self._keys.vote)

    @property
    def _models(self) -> tuple[bytes, ...]:
        return tuple(sorted({model for role in self._roles for model in role.models}))

    @property
    def _price(self) -> int:
        return max((role.price for role in self._roles), default=0)
