"""The verifiers drawn for a worker's claims, and those it had rather not be checked by."""

from protocol.committee import draw_committee
from protocol.errors import ProtocolError
from protocol.jobs import InferenceRequest, Mode, Receipt, compute_request_id
from protocol.keys import format_node
from protocol.ledger.records import EpochSnapshot
from protocol.ledger.state import State
from roles.admission import NotAdmitted, RefusalCode
from roles.shunned import Shunned


class Committees:
    """`worker` is the node key that signs the claims."""

    def __init__(self, worker: bytes) -> None:
        self._worker = worker
        self.shunned = Shunned()
        self.is_choosy = True
        self._enough: tuple[EpochSnapshot | None, set[int]] = (None, set())  # how many verifiers can be drawn in it

    def check(self, request: InferenceRequest, state: State, now_ms: int) -> None:
        """NotAdmitted when a verifier this claim would need has failed this worker lately."""
        if request.mode != Mode.INDIVIDUAL or not self.is_choosy:
            return
        try:
            committee = self._draw(state, request.epoch, compute_request_id(request), request.verifiers)
        except ProtocolError as error:  # too few verifiers of other accounts
            raise NotAdmitted(RefusalCode.POLICY, str(error)) from error
        shunned = self.shunned.find(committee, now_ms)
        if shunned is not None:
            reason = f"verifier {format_node(shunned)}, drawn for this request, owes this worker attestations"
            raise NotAdmitted(RefusalCode.COMMITTEE, reason)

    def draw(self, receipt: Receipt, state: State) -> tuple[bytes, ...]:
        claim = receipt.claim
        return self._draw(state, claim.epoch, claim.request_id, claim.verifiers, claim.worker)

    def verify_enough(self, receipt: Receipt, state: State) -> None:
        """ProtocolError when there are too few verifiers to draw from, whoever will be drawn."""
        snapshot, verifiers = state.get_epoch(receipt.claim.epoch), receipt.claim.verifiers
        if snapshot is not self._enough[0]:
            self._enough = (snapshot, set())
        if verifiers not in self._enough[1]:
            self.draw(receipt, state)
            self._enough[1].add(verifiers)

    def _draw(
        self, state: State, epoch: int, request_id: bytes, verifiers: int, worker: bytes = b""
    ) -> tuple[bytes, ...]:
        """The verifiers drawn for a claim; none when its epoch is no longer known, so that it can only end void."""
        snapshot = state.get_epoch(epoch)
        if snapshot is None:
            return ()
        worker = worker or self._worker
        return draw_committee(snapshot, request_id, worker, verifiers)
