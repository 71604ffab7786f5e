"""What nodes keep of work and pay, as it lies on their disks: receipts, records of requests, journals of jobs."""

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from protocol.codec import decode
from roles.chain import RECEIPT_BUCKET, read_kept
from roles.request_log import RequestRecord
from roles.workbook import JournalEntry
from testnet.recompute import DATABASE_NAME

REQUESTS = "client/requests"
JOBS = "inference/jobs"  # until they are settled
ANSWERED = "inference/answered"  # settled, and their clients may still ask
BEHIND_MS = 30_000  # of a clock, a ledger's time at most


@dataclass(frozen=True)
class Papers:
    """What one node has kept: a client's receipt files and records of requests, a worker's journal; by their keys."""

    receipts: Mapping[bytes, bytes] = field(default_factory=dict)
    requests: Mapping[bytes, bytes] = field(default_factory=dict)
    jobs: Mapping[bytes, bytes] = field(default_factory=dict)

    def list_requests(self) -> Iterator[tuple[bytes, RequestRecord]]:
        for request_id, data in self.requests.items():
            yield request_id, decode(RequestRecord, data)


def find_places(directory: Path) -> list[Path]:
    """The data directories in a network's directory; or the directory itself, if it is one."""
    below = (path for pattern in ("clients/*", "nodes/*") for path in sorted(directory.glob(pattern)))
    return [path for path in (directory, *below) if (path / DATABASE_NAME).is_file()]


def read_papers(place: Path) -> Papers:
    """The papers in a data directory, whose node may be running. Raises what `read_kept` does."""
    database = place / DATABASE_NAME
    jobs = {**read_kept(database, ANSWERED), **read_kept(database, JOBS)}
    return Papers(read_kept(database, RECEIPT_BUCKET), read_kept(database, REQUESTS), jobs)


def count_under_way(place: Path) -> int:
    """Requests of this node that have not ended, and jobs it has claimed and not seen settled, while they may be."""
    database = place / DATABASE_NAME
    records = Papers(requests=read_kept(database, REQUESTS)).list_requests()
    jobs = [decode(JournalEntry, data) for data in read_kept(database, JOBS).values()]
    lapsed = find_lapsed(jobs, time.time_ns() // 1_000_000 - BEHIND_MS)
    open_jobs = sum(job.item.voucher.channel not in lapsed for job in jobs)
    return sum(not record.ended_ms for _, record in records) + open_jobs


def find_lapsed(jobs: Iterable[JournalEntry], time_ms: int) -> set[bytes]:
    """Channels of which every voucher at hand has run out by a ledger's time: nothing settles what is left of them,
    unless their clients give vouchers once more.
    """
    until_ms: dict[bytes, int] = {}
    for job in jobs:
        voucher = job.item.voucher
        until_ms[voucher.channel] = max(voucher.expiry_ms, until_ms.get(voucher.channel, 0))
    return {channel for channel, expiry_ms in until_ms.items() if expiry_ms < time_ms}
