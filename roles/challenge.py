"""A claim that a verifier has found wrong, as it is kept until the dispute about it is over, and whose turn it is."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Annotated

from protocol.jobs import Claim, Receipt
from protocol.ledger.dispute_records import Dispute
from protocol.ledger.disputes import CheckedLeaf
from protocol.ledger.state import State
from protocol.tensor import TENSORS_MAX, Tensor
from protocol.types import AtMost, Digest, Line, UpTo

CHALLENGE = "challenge|"  # begins the tokens of all that is done about one
CHALLENGES_MAX = 32
OVER_MAX = 4_096  # claims remembered as looked into
WAIT_MS = 3_000  # for each of those drawn before us to dispute it first
SPARE_MS = 8_000  # before the end of the time for disputes: then it is not left to others any more
AGAIN_MS = 1_000


@dataclass(frozen=True)
class Challenge:
    """A claim this verifier has found wrong, with all it needs to say so. By a receipt or by a leaf of a batch."""

    claim: Claim
    receipt: Annotated[tuple[Receipt, ...], AtMost(1)]
    leaf: Annotated[tuple[CheckedLeaf, ...], AtMost(1)]
    claimed: Digest  # what the worker has opened
    inputs: Annotated[tuple[Tensor, ...], AtMost(TENSORS_MAX)]
    found: Digest
    profile: Line
    is_beyond: Annotated[int, UpTo(1)] = 0  # a float model's, and shown: validators run all of it, there is no trace


class Over:
    """The claims that have been looked into: none is disputed twice. The oldest are forgotten."""

    def __init__(self) -> None:
        self._claims: OrderedDict[bytes, None] = OrderedDict()

    def __contains__(self, claim_id: bytes) -> bool:
        return claim_id in self._claims

    def add(self, claim_id: bytes) -> None:
        self._claims[claim_id] = None
        if len(self._claims) > OVER_MAX:
            self._claims.popitem(last=False)


def find_own(state: State, claim: Claim, account: bytes) -> tuple[bytes, Dispute | None]:
    """The dispute that an account has opened about a claim, with its key: others may dispute it too."""
    own = ((key, item) for key, item in state.disputes.items() if item.challenger == account)
    return next(((key, item) for key, item in own if item.claim == claim), (b"", None))


def is_left_to_others(challenge: Challenge, state: State, now_ms: int, account: bytes) -> bool:
    """Whether another alone disputes the claim, and there is time to see how that ends. A batch waits by itself."""
    claim = challenge.claim
    challengers = [item.challenger for item in state.disputes.values() if item.claim == claim]
    latest_ms = claim.deadline_ms + state.params.challenge_ms
    is_disputed = bool(challengers) and account not in challengers
    return is_disputed and (bool(challenge.leaf) or now_ms < latest_ms - SPARE_MS)


def has_time(challenge: Challenge, state: State, now_ms: int) -> bool:
    """Whether the ledger may still take a dispute about the claim."""
    if challenge.leaf:
        return challenge.leaf[0].batch in state.batches
    return now_ms < challenge.claim.deadline_ms + state.params.challenge_ms
