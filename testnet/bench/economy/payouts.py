"""How each job ended on the ledger, from the state before a block and the one after it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from protocol.jobs import Mode
from protocol.ledger.batches import compute_check_key, compute_drawn, is_paid
from protocol.ledger.job_records import Batch, BatchPhase
from protocol.ledger.state import State
from testnet.bench.economy.jobs import Job


class End(StrEnum):
    PAID = "paid"
    REFUNDED = "refunded"
    FORFEIT = "forfeit"  # with all its batch


@dataclass(frozen=True)
class Batched:
    """A batch that has ended: how many of its leaves were drawn, and how long it took."""

    leaves: int
    drawn: int
    total: int  # grains
    time_ms: int
    is_lost: bool


def list_ended(before: State, after: State) -> list[Batched]:
    """The batches that a block has ended, by key."""
    ended = []
    for key in sorted(before.batches.keys() - after.batches.keys()):
        batch = before.batches[key]
        drawn = len(compute_drawn(batch.seed, key, batch.leaves, batch.sample_bp))
        is_lost = batch.phase != BatchPhase.WINDOW
        ended.append(Batched(batch.leaves, drawn, batch.total, after.time_ms - batch.time_ms, is_lost))
    return ended


def find_ends(before: State, after: State, worker: bytes, batches: Mapping[bytes, Sequence[Job]]) -> dict[bytes, End]:
    """The jobs of a worker's batches that a block has ended, by claim id. `batches`: leaves in order, by root."""
    ends = {}
    for key in before.batches.keys() - after.batches.keys():
        batch = before.batches[key]
        if batch.worker != worker:
            continue
        jobs = batches[batch.root]
        is_forfeit = batch.phase != BatchPhase.WINDOW or any(job.claim_id in after.wrong for job in jobs)
        for index, job in enumerate(jobs):
            if is_forfeit:
                ends[job.claim_id] = End.FORFEIT
            else:
                ends[job.claim_id] = End.PAID if _is_paid(before, key, batch, index) else End.REFUNDED
    return ends


def find_settled(before: State, after: State, waiting: Iterable[Job]) -> dict[bytes, End]:
    """The jobs of mode `individual` that a block has settled, by claim id: nothing takes their pay back."""
    ends = {}
    for job in waiting:
        channel, earlier = after.channels.get(job.voucher.channel), before.channels.get(job.voucher.channel)
        if channel is None or earlier is None or channel.mode != Mode.INDIVIDUAL or job.reason:
            continue
        if earlier.settled_seq < job.voucher.seq <= channel.settled_seq:
            ends[job.claim_id] = End.PAID
    return ends


def _is_paid(before: State, key: bytes, batch: Batch, index: int) -> bool:
    check = before.checks.get(compute_check_key(key, index))
    return check is None or is_paid(check, before.models.get(check.claim.model))
