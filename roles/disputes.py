"""Results that drawn verifiers disagree with: show them the worker's receipt, so that they have validators decide.

A client runs no models, so it stakes nothing on what verifiers say: who found something else stands by it with a bond
of its own (`roles.challenger`). A case is kept from the moment it begins, and goes on after a restart.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from protocol.codec import decode, encode
from protocol.jobs import Receipt, compute_claim_id
from protocol.ledger.state import State
from protocol.messages import GetOpening, Opening
from protocol.tensor import TENSORS_MAX, Tensor
from protocol.types import AtMost, PublicKey
from roles.role import Effect, Record, Request, Store

ASK_AGAIN_MS = 1_500  # whoever has not answered
REMIND_MS = 6_000  # whoever found something else and has not disputed it
OUTAGE_MS_MAX = 120_000  # of the ledger: so long after the time for disputes a case is still pressed
BUCKET = "disputes"


@dataclass(frozen=True)
class Disagreement:
    """A worker's receipt, and the verifiers drawn for it, of whom one at least found another output.

    `inputs` are the request's, empty where they are in a blob.
    """

    receipt: Receipt
    inputs: Annotated[tuple[Tensor, ...], AtMost(TENSORS_MAX)]
    committee: Annotated[tuple[PublicKey, ...], AtMost(16)]


@dataclass
class _Case:
    disagreement: Disagreement
    ask_ms: dict[bytes, int] = field(default_factory=dict)  # verifier -> when to ask it again


class Disputes:
    """Disagreements nobody has decided yet, by claim id."""

    def __init__(self) -> None:
        self._open: dict[bytes, _Case] = {}

    def __len__(self) -> int:
        return len(self._open)

    def restore(self, stored: Mapping[bytes, bytes]) -> None:
        """Cases an earlier process has begun; `press` goes on with them."""
        self._open = {claim_id: _make_case(decode(Disagreement, data)) for claim_id, data in stored.items()}

    def begin(self, disagreement: Disagreement, now_ms: int) -> list[Effect]:
        """Show the verifiers the worker's signed receipt, and ask each what it found itself."""
        claim = disagreement.receipt.claim
        claim_id = compute_claim_id(claim)
        case = self._open[claim_id] = _make_case(disagreement)
        fields = {"request_id": claim.request_id, "claim_id": claim_id, "worker": claim.worker}
        kept = Store(BUCKET, claim_id, encode(disagreement))
        return [kept, Record("result.disputed", fields), *_ask(case, now_ms)]

    def press(self, state: State, now_ms: int) -> list[Effect]:
        """Ask those again who may still dispute it; give up when nobody can any more."""
        effects: list[Effect] = []
        under_way = {compute_claim_id(dispute.claim) for dispute in state.disputes.values()}
        for claim_id, case in list(self._open.items()):
            latest_ms = case.disagreement.receipt.claim.deadline_ms + state.params.challenge_ms
            if claim_id in under_way:
                continue
            if state.time_ms > latest_ms or now_ms > latest_ms + OUTAGE_MS_MAX:
                effects += self._end(claim_id, "dispute.void", {"reason": "nobody disputed it, or in vain"})
            else:
                effects += _ask(case, now_ms)
        return effects

    def look(self, state: State) -> list[Effect]:
        """What the ledger has decided."""
        decided = [claim_id for claim_id in self._open if claim_id in state.wrong]
        effects: list[Effect] = []
        for claim_id in decided:
            worker = self._open[claim_id].disagreement.receipt.claim.worker
            effects += self._end(claim_id, "wrong.proven", {"worker": worker, "height": state.height})
        return effects

    def learn(self, verifier: bytes, opening: Opening) -> None:
        """One verifier's digest. Who found what the worker says has nothing to dispute."""
        case = self._open.get(opening.claim_id)
        if case is None or verifier not in case.ask_ms:
            return
        if opening.output_digest == case.disagreement.receipt.output_digest:
            del case.ask_ms[verifier]
        else:
            case.ask_ms[verifier] += REMIND_MS - ASK_AGAIN_MS

    def _end(self, claim_id: bytes, name: str, fields: dict[str, object]) -> list[Effect]:
        del self._open[claim_id]
        return [Store(BUCKET, claim_id, None), Record(name, {"claim_id": claim_id, **fields})]


def _make_case(disagreement: Disagreement) -> _Case:
    return _Case(disagreement, dict.fromkeys(disagreement.committee, 0))


def _ask(case: _Case, now_ms: int) -> list[Effect]:
    question = GetOpening(case.disagreement.receipt, case.disagreement.inputs)
    asked = [verifier for verifier, ask_ms in case.ask_ms.items() if now_ms >= ask_ms]
    case.ask_ms.update(dict.fromkeys(asked, now_ms + ASK_AGAIN_MS))
    return [Request(verifier, "proof", question, "opening") for verifier in asked]
