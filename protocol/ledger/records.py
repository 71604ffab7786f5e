"""What the ledger remembers: one frozen dataclass per table, each encoded by the codec."""

from collections.abc import Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Annotated

from protocol.fast_dataclass import fast_dataclass
from protocol.types import AtMost, Digest, Grains, Name, PublicKey, ShareBp, TimeMs, UpTo, Whole

CANDIDATES_MAX = 1_000
VoteKey = Annotated[bytes, AtMost(32)]  # empty for nodes that do not validate
Tip = Annotated[bytes, AtMost(32)]  # empty for none
RoleNames = Annotated[tuple[Name, ...], AtMost(8)]
ModelDigests = Annotated[tuple[Digest, ...], AtMost(64)]
MaybeKey = Annotated[bytes, AtMost(32)]  # empty for nobody's


@fast_dataclass(frozen=True)
class Account:
    """`nonce` is that of the next transaction."""

    balance: Grains
    nonce: Whole


@fast_dataclass(frozen=True)
class NodeRecord:
    """The node an account runs. `changed_epoch` is the epoch in which roles, models or price were set last."""

    account: PublicKey
    node: PublicKey
    vote: VoteKey
    roles: RoleNames
    models: ModelDigests
    price: Grains  # per row
    bond: Grains
    changed_epoch: Whole


@fast_dataclass(frozen=True)
class KeyOwner:
    """Whose node or vote key this is. `left_epoch` is the first epoch in which it is no more, 0 while it is."""

    account: PublicKey
    left_epoch: Whole


@fast_dataclass(frozen=True)
class Unbonding:
    """Stake on its way back to its account's balance; still slashed for what `validator`'s account has done."""

    account: PublicKey
    validator: PublicKey
    amount: Grains
    epoch: Whole  # in which it began: the last in which it may have been a vote's weight


@fast_dataclass(frozen=True)
class Delegation:
    """Stake one account puts behind another's validator."""

    validator: PublicKey
    delegator: PublicKey
    amount: Grains


@fast_dataclass(frozen=True)
class Pool:
    """The sums of a validator's delegations, and rewards not yet paid out to it and them."""

    delegated: Grains
    delegators: Whole
    rewards: Grains


@fast_dataclass(frozen=True)
class Vesting:
    """What is held back for an account, or the treasury: equal parts, first at the cliff, then one every `part_ms`."""

    account: MaybeKey  # empty for the treasury
    amount: Grains
    released: Grains
    cliff_ms: TimeMs
    part_ms: Whole
    parts: Whole


@fast_dataclass(frozen=True)
class WorkCount:
    """How a node's work ended. `earned` counts whole fees, before the split.

    `burnt` is what the fees of work it did or agreed with have burnt; `lost` what forfeited work would have burnt, and
    what it lost of its stake. `agreed` and `minority` count a verifier's words that counted, and its dissents in vain;
    `observed` and `outliers` an oracle's observations that were reported, and those far from what the others saw.
    """

    paid: Whole
    void: Whole
    wrong: Whole
    earned: Grains
    burnt: Grains = 0
    lost: Grains = 0
    agreed: Whole = 0
    minority: Whole = 0
    observed: Whole = 0
    outliers: Whole = 0


NO_WORK = WorkCount(0, 0, 0, 0)


@fast_dataclass(frozen=True)
class Onion:
    """The hash onion a validator reveals layer by layer, and the one that follows it at the epoch's end, if any."""

    tip: Tip
    number: Whole
    next_tip: Tip
    next_number: Whole


@fast_dataclass(frozen=True)
class Tombstone:
    """A validator convicted by its own votes: it validates no more, under whatever keys."""

    vote: PublicKey
    height: Whole
    epoch: Whole  # of the conviction
    slashed: Grains


@fast_dataclass(frozen=True)
class FormerKey:
    """The vote key an account had before a restart."""

    account: PublicKey
    vote: PublicKey


@fast_dataclass(frozen=True)
class RestartRecord:
    """A restart (`restart`) that the ledger has been through after block `height`, in `epoch`."""

    id: Digest
    height: Whole
    epoch: Whole
    former: Annotated[tuple[FormerKey, ...], AtMost(32)]


@fast_dataclass(frozen=True)
class DueItem:
    """Future work of the ledger. A waking item calls for a block when its time comes; a lazy one waits for the next.

    `graced` is 1 when the item punishes silence and has been put off already, so that an outage forfeits nobody.
    """

    time_ms: TimeMs
    kind: Whole
    id: Digest
    waking: Annotated[int, UpTo(1)]
    graced: Annotated[int, UpTo(1)]


@fast_dataclass(frozen=True)
class Candidate:
    """A node as it stood when an epoch began, in the roles its bond then reached.

    `weight` is that bond; to validate, what is delegated counts as well. To work and to verify it is drawn by
    `draw_weight`, which follows from bond and quality (`quality`).
    """

    account: PublicKey
    node: PublicKey
    vote: VoteKey
    roles: RoleNames
    models: ModelDigests
    price: Grains
    weight: Grains
    delegated: Grains
    quality: ShareBp
    draw_weight: Grains

    def serves(self, model: bytes) -> bool:
        return "inference" in self.roles and model in self.models


@fast_dataclass(frozen=True)
class EpochSnapshot:
    """Who can be drawn in an epoch, and by what seed. `height` is the first its validators decide."""

    height: Whole
    seed: Digest
    candidates: Annotated[tuple[Candidate, ...], AtMost(CANDIDATES_MAX)]

    def find_candidate(self, node: bytes) -> Candidate | None:
        return self.by_node.get(node)

    def find_account(self, account: bytes) -> Candidate | None:
        return self._by_account.get(account)

    def get_candidates(self, role: str) -> tuple[Candidate, ...]:
        return tuple(candidate for candidate in self.candidates if role in candidate.roles)

    @cached_property
    def by_node(self) -> Mapping[bytes, Candidate]:
        """Asked for several times for each job that is settled."""
        return MappingProxyType({candidate.node: candidate for candidate in self.candidates})

    @cached_property
    def _by_account(self) -> Mapping[bytes, Candidate]:
        return {candidate.account: candidate for candidate in self.candidates}

    @cached_property
    def stakes(self) -> tuple[tuple[int, Candidate], ...]:
        """What stands behind each validator, the most first; asked for several times a block, the same for an epoch."""
        stakes = [(item.weight + item.delegated, item) for item in self.get_candidates("validator")]
        return tuple(sorted(stakes, key=lambda pair: -pair[0]))

    @cached_property
    def draws(self) -> dict[tuple[str, bytes, bytes, int], tuple[bytes, ...]]:
        """What has been drawn from it, for who draws it again (`committee`)."""
        return {}
