"""A verifier's part in demands: has a worker that neither settles nor shows a receipt open what it has claimed.

It waits until the request is over and the worker has had its time to settle: of a workflow's run, until the ledger has
noted that nothing came of it. What is opened is compared with what the verifier found itself, as if its client had
shown the receipt.
"""

from collections import OrderedDict

from protocol.jobs import Claim, Receipt
from protocol.ledger.demands import DemandOpening
from protocol.ledger.job_errors import AlreadyDemanded
from protocol.ledger.runs import is_contested
from protocol.ledger.state import State
from protocol.workflow import Outcome
from roles.role import Effect, Record, SetTimer, Submit

DEMAND = "demand|"  # begins its tokens
TIMER = "demands"
CLAIMS_MAX = 4_096
DEMANDED_MAX = 16
LOOK_MS = 500  # between two looks at all claims
AFTER_MS = 10_000  # what a worker has to settle in, from the request's deadline on
MARGIN_MS = 2_000  # before demands are refused


class Demander:
    """Claims this verifier has attested and whose ends it does not know.

    Where many are overdue at once, it is the ledger that is late: a few are demanded at a time.
    """

    def __init__(self, account: bytes) -> None:
        self._account = account
        self._claims: OrderedDict[bytes, Claim] = OrderedDict()
        self._demanded: set[bytes] = set()  # by this verifier or another, and not opened yet as far as it knows
        self._is_armed = False

    def add(self, claim_id: bytes, claim: Claim) -> list[Effect]:
        self._claims[claim_id] = claim
        if len(self._claims) > CLAIMS_MAX:
            self._claims.popitem(last=False)
        if self._is_armed:
            return []
        self._is_armed = True
        return [SetTimer(TIMER, claim.deadline_ms + AFTER_MS)]

    def look(self, state: State, now_ms: int) -> list[Effect]:
        """Forget what is settled, and demand what is overdue."""
        effects: list[Effect] = []
        for claim_id, claim in list(self._claims.items()):
            latest_ms = claim.deadline_ms + state.params.challenge_ms - MARGIN_MS
            is_late = now_ms > latest_ms and claim_id not in state.demands
            if is_late or _is_accounted_for(claim, state):
                self._forget(claim_id)
            elif claim_id in state.demands:
                self._demanded.add(claim_id)
            elif self._is_wanted(claim_id, claim, now_ms) and not _is_open(claim, state):
                self._demanded.add(claim_id)
                fields = {"claim_id": claim_id, "worker": claim.worker}
                demand = Submit(DemandOpening(claim), DEMAND + claim_id.hex())
                effects += [demand, Record("opening.demanded", fields)]
        return effects

    def _is_wanted(self, claim_id: bytes, claim: Claim, now_ms: int) -> bool:
        is_overdue = now_ms >= claim.deadline_ms + AFTER_MS
        return is_overdue and claim_id not in self._demanded and len(self._demanded) < DEMANDED_MAX

    def take_opened(self, state: State) -> list[Receipt]:
        """Receipts that workers have opened for this verifier, each once."""
        opened: list[Receipt] = []
        for claim_id in list(self._demanded):
            demand = state.demands.get(claim_id)
            if demand is not None and not demand.is_open:
                self._forget(claim_id)
                opened += demand.receipt
        return opened

    def on_timer(self, state: State, now_ms: int) -> list[Effect]:
        """Look, and come back when the next claim is overdue."""
        effects = self.look(state, now_ms)
        waiting = [claim.deadline_ms + AFTER_MS for key, claim in self._claims.items() if key not in self._demanded]
        self._is_armed = bool(waiting)
        return [*effects, SetTimer(TIMER, max(now_ms + LOOK_MS, min(waiting)))] if waiting else effects

    def on_submitted(self, token: str, error: str) -> list[Effect]:
        # Where another was quicker, what its demand opens is compared all the same.
        if not error or error.startswith(f"{AlreadyDemanded.__name__}:"):
            return []
        self._forget(bytes.fromhex(token.removeprefix(DEMAND)))
        return [Record("demand.refused", {"reason": error})]

    def _forget(self, claim_id: bytes) -> None:
        self._claims.pop(claim_id, None)
        self._demanded.discard(claim_id)


def _is_accounted_for(claim: Claim, state: State) -> bool:
    """Whether its worker has settled or contested it, or will never have to."""
    channel, run = state.channels.get(claim.channel), state.runs.get(claim.channel)
    if channel is not None:
        return channel.settled_seq >= claim.seq
    if run is not None:
        return is_contested(run, claim)
    ticks = (tick for workflow in state.workflows.values() for tick in workflow.past)
    return not any(tick.job == claim.channel and tick.outcome == Outcome.FAILED for tick in ticks)


def _is_open(claim: Claim, state: State) -> bool:
    """Whether it is of a run that may still be settled."""
    return claim.channel in state.runs
