"""A worker's part where others ask for it in public: publishes outputs, and opens claims that are demanded."""

from collections.abc import Callable

from protocol.ledger.demands import OpenClaim
from protocol.ledger.state import State
from protocol.ledger.transactions import ZeroReason
from protocol.ledger.withheld import Published, PublishOutput
from roles.batcher import Batcher
from roles.role import Effect, Record, Submit
from roles.workbook import Job, Workbook

PUBLISH = "publish|"  # begins its tokens


class Publisher:
    """Answers each challenge about the worker's batches once; one that was refused again, while it is open.

    `find_job` gives the job of a voucher or a run while it may be asked about.
    """

    def __init__(
        self, book: Workbook, find_job: Callable[[bytes, int], Job | None], batcher: Batcher, account: bytes
    ) -> None:
        self._book = book
        self._find_job = find_job
        self._batcher = batcher
        self._account = account
        self._said: set[bytes] = set()  # challenges by key
        self._opened: set[bytes] = set()  # demands by claim id

    def look(self, state: State) -> list[Effect]:
        """Whatever the ledger waits for from this worker."""
        asked = self._publish(state)
        demanded = {key: demand.claim for key, demand in state.demands.items() if demand.worker == self._account}
        self._opened &= demanded.keys()
        for claim_id, claim in demanded.items():
            job = self._find_job(claim.channel, claim.seq)
            if not state.demands[claim_id].is_open or claim_id in self._opened or job is None or job.receipt is None:
                continue
            self._opened.add(claim_id)
            body = OpenClaim(claim_id, (job.receipt,))
            asked += [Submit(body, PUBLISH + claim_id.hex()), Record("claim.opened", {"claim_id": claim_id})]
        return asked

    def list_lost(self, state: State) -> list[Job]:
        """Jobs whose claims were not opened in time: they earn nothing any more, and are marked so."""
        lost: list[Job] = []
        for claim_id, demand in state.demands.items():
            job = self._book.find_claim(claim_id) if demand.is_forfeit else None
            if job is not None and not job.zero_reason:
                job.zero_reason = ZeroReason.FAILED
                lost.append(job)
        return lost

    def _publish(self, state: State) -> list[Effect]:
        own = {
            key: challenge
            for key, challenge in state.withheld.items()
            if challenge.worker == self._account and not challenge.is_over
        }
        self._said &= own.keys()
        effects: list[Effect] = []
        for key, challenge in own.items():
            batch = state.batches.get(challenge.batch)
            if key in self._said or batch is None:
                continue
            self._said.add(key)
            leaf, path = self._batcher.show(challenge.batch, batch, challenge.index)
            job = self._find_job(challenge.channel, challenge.seq)
            is_earning = not leaf.reason and job is not None and job.receipt is not None
            vouchers = (job.item.voucher,) if is_earning and job is not None else ()
            published: tuple[Published, ...] = ()
            if is_earning and job is not None and job.receipt is not None:
                published = (Published(job.receipt, job.outputs),)
            body = PublishOutput(challenge.batch, challenge.index, leaf, path, vouchers, published)
            fields = {"batch": challenge.batch, "leaf": challenge.index, "channel": challenge.channel}
            effects += [Submit(body, PUBLISH + key.hex()), Record("output.published", fields)]
        return effects

    def on_submitted(self, token: str, error: str) -> list[Effect]:
        if not error:
            return []
        key = bytes.fromhex(token.removeprefix(PUBLISH))
        self._said.discard(key)
        self._opened.discard(key)
        return [Record("publication.refused", {"reason": error})]
