"""What a client's account says of the service it has had: counted as requests end, signed now and then, by epoch.

A statement is made anew while its epoch runs, so that a crash loses a few seconds of it at most.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from protocol.codec import decode, encode
from protocol.keys import Signer
from protocol.service import (
    CODES_MAX,
    EDGES_MS,
    WORKERS_MAX,
    CodeCount,
    ServiceStatement,
    WorkerService,
    compute_bucket,
)
from protocol.signing import sign
from roles.request_log import RequestRecord
from roles.role import Effect, SetTimer, Store

BUCKET = "statements"
TIMER = "statement"
EVERY_MS = 5_000
EPOCHS_MAX = 64  # statements that are kept
OTHER = "other"


@dataclass
class _Worker:
    latencies: list[int] = field(default_factory=lambda: [0] * len(EDGES_MS))
    refusals: Counter[str] = field(default_factory=Counter)


@dataclass
class _Epoch:
    number: int
    workers: dict[bytes, _Worker] = field(default_factory=dict)
    failures: Counter[str] = field(default_factory=Counter)
    left_out: int = 0


class ServiceLog:
    """`signer` is the account's key."""

    def __init__(self, signer: Signer) -> None:
        self._signer = signer
        self._chain = b""
        self._epoch = _Epoch(0)
        self._is_waiting = False  # for its timer
        self._kept: list[int] = []  # epochs, in order

    def restore(self, stored: Mapping[bytes, bytes], chain: bytes, epoch: int) -> None:
        """Go on with what an earlier process has said of the epoch that runs."""
        self._chain, self._epoch = chain, _Epoch(epoch)
        said = sorted((decode(ServiceStatement, data) for data in stored.values()), key=lambda item: item.epoch)
        self._kept = [item.epoch for item in said]
        if said and said[-1].epoch == epoch:
            self._epoch = _read(said[-1])

    def note(self, record: RequestRecord, epoch: int, now_ms: int) -> list[Effect]:
        """Count a request that has ended."""
        effects: list[Effect] = []
        if epoch != self._epoch.number:
            effects, self._epoch = self.keep(), _Epoch(epoch)
        for number, attempt in enumerate(record.attempts, 1):
            is_winner = number == record.winner
            if not is_winner and not attempt.refusals:
                continue
            worker = self._get_worker(attempt.worker)
            if worker is None:
                self._epoch.left_out += 1
                continue
            for refusal in attempt.refusals:
                _count(worker.refusals, refusal.code)
            worker.latencies[compute_bucket(record.ended_ms - attempt.sent_ms)] += is_winner
        if not record.winner:
            _count(self._epoch.failures, record.code)
        if not self._is_waiting:
            self._is_waiting = True
            effects.append(SetTimer(TIMER, now_ms + EVERY_MS))
        return effects

    def on_timer(self) -> list[Effect]:
        self._is_waiting = False
        return self.keep()

    def keep(self) -> list[Effect]:
        """Sign what is known of the epoch by now, if anything is. The oldest statement makes room."""
        epoch = self._epoch
        if not (epoch.workers or epoch.failures or epoch.left_out):
            return []
        said = sign(_write(epoch, self._chain, self._signer.public), self._signer)
        effects: list[Effect] = [Store(BUCKET, _key(epoch.number), encode(said))]
        if epoch.number not in self._kept:
            self._kept.append(epoch.number)
        if len(self._kept) > EPOCHS_MAX:
            effects.append(Store(BUCKET, _key(self._kept.pop(0)), None))
        return effects

    def _get_worker(self, key: bytes) -> _Worker | None:
        workers = self._epoch.workers
        if key not in workers and len(workers) >= WORKERS_MAX:
            return None
        return workers.setdefault(key, _Worker())


def _count(counts: Counter[str], code: str) -> None:
    """Codes are the workers' own words: there is room for so many."""
    counts[code if code in counts or len(counts) < CODES_MAX - 1 else OTHER] += 1


def _key(epoch: int) -> bytes:
    return epoch.to_bytes(8, "big")


def _write(epoch: _Epoch, chain: bytes, account: bytes) -> ServiceStatement:
    workers = tuple(
        WorkerService(key, tuple(worker.latencies), _list_counts(worker.refusals))
        for key, worker in sorted(epoch.workers.items())
    )
    return ServiceStatement(
        chain, account, epoch.number, workers, _list_counts(epoch.failures), epoch.left_out, bytes(64)
    )


def _read(said: ServiceStatement) -> _Epoch:
    workers = {
        item.worker: _Worker(list(item.latencies), Counter({each.code: each.count for each in item.refusals}))
        for item in said.workers
    }
    failures = Counter({each.code: each.count for each in said.failures})
    return _Epoch(said.epoch, workers, failures, said.left_out)


def _list_counts(counts: Counter[str]) -> tuple[CodeCount, ...]:
    return tuple(CodeCount(code, count) for code, count in sorted(counts.items()))
