"""Which verifiers a client hears from, how long their word takes, and whose it had rather not need.

Who attests a worker's claim follows from the request: a client can tell beforehand that it would wait for a verifier
that says nothing, and ask another worker, or draw its request once more.
"""

from protocol.committee import draw_committee
from protocol.errors import ProtocolError
from protocol.jobs import Mode
from protocol.ledger.records import EpochSnapshot
from protocol.ledger.state import State
from roles.attempts import Attempt, Job
from roles.patience import Patience
from roles.shunned import NODES_MAX, Shunned

WAIT_MS, WAIT_MS_MAX = 1_000, 3_000  # from a worker's result until its verifiers are late
WAITS = 4  # that fit into a request's time, at least


class Attesters:
    """All times in milliseconds on one clock."""

    def __init__(self) -> None:
        self._shunned = Shunned()
        self._heard_ms: dict[bytes, int] = {}  # those not heard for longest first
        self._patience = Patience(WAIT_MS, WAIT_MS_MAX)

    def hear(self, verifier: bytes, now_ms: int) -> None:
        """It has attested something."""
        self._heard_ms.pop(verifier, None)
        self._heard_ms[verifier] = now_ms
        if len(self._heard_ms) > NODES_MAX:
            del self._heard_ms[next(iter(self._heard_ms))]
        self._shunned.forgive(verifier)

    def note_attested(self, attempt: Attempt, now_ms: int) -> None:
        """All of its verifiers have spoken."""
        self._shunned.forgive(attempt.worker)
        if not attempt.is_pulled:
            self._patience.note(now_ms - attempt.answered_ms)

    def compute_wait(self, timeout_ms: int) -> int:
        """Milliseconds from a worker's result until its verifiers are late, for a request of so many."""
        return min(self._patience.wait_ms, timeout_ms // WAITS)

    def blame(self, attempt: Attempt, now_ms: int) -> None:
        """Shun who is to blame for what is late, as far as that is plain.

        A verifier that has said nothing to anything since, while another has attested this; or the worker, if all of
        its verifiers were heard and none on this: its claim may not have gone out. Where all have too much to do, all
        are late, and none is silent.
        """
        self._patience.lengthen(now_ms)
        silent = [verifier for verifier in attempt.unheard if self._heard_ms.get(verifier, 0) <= attempt.answered_ms]
        if attempt.attestations:
            for verifier in silent:
                self._shunned.add(verifier, now_ms)
        elif not silent:
            self._shunned.add(attempt.worker, now_ms)

    def choose(self, job: Job, workers: tuple[bytes, ...], state: State, now_ms: int) -> tuple[bytes, ...]:
        """Those of the workers that are not shunned, nor would their claims of this job need anybody who is."""
        epoch = state.get_epoch(job.request.epoch)
        if job.request.mode != Mode.INDIVIDUAL or epoch is None or not self._shunned.is_any(now_ms):
            return workers
        return tuple(worker for worker in workers if not self._is_shunned(job, worker, epoch, now_ms))

    def _is_shunned(self, job: Job, worker: bytes, epoch: EpochSnapshot, now_ms: int) -> bool:
        try:
            committee = draw_committee(epoch, job.request_id, worker, job.request.verifiers)
        except ProtocolError:
            committee = ()  # its worker says why there is none
        return self._shunned.find((worker, *committee), now_ms) is not None
