"""A worker's jobs, by channel and voucher: what has been taken, claimed, attested, and what can be settled next."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Annotated, NamedTuple

from protocol.codec import encode
from protocol.errors import InvalidTransaction
from protocol.jobs import Attestation, Mode, PaidRequest, Receipt, Voucher, compute_attestation, compute_claim_id
from protocol.ledger.job_records import Channel
from protocol.ledger.settlement import RunTrial
from protocol.ledger.state import State
from protocol.ledger.transactions import ChannelRun, Leaf, SettleIndividual, Work, ZeroReason
from protocol.tensor import Tensor
from protocol.types import AtMost, Whole
from roles.admission import check_order

LEAVES_MAX = 64  # per transaction
SETTLE_BYTES_MAX = 48 * 1024
ANSWERED_MAX = 16_384  # beyond them a worker cannot answer for its oldest in a dispute
VOID_GRACE_MS = 2_000  # attestations may still arrive this long after the deadline
TURNED_AWAY_MAX = 8_192  # vouchers of a channel; those beyond it hold up the ones behind them for a while
RECALL_MS = 8_000  # and this long after a restart, from verifiers that have spoken while the worker was down


@dataclass(frozen=True)
class JournalEntry:
    """One job as it is kept from the moment it is claimed, or known to earn nothing, until it is settled."""

    item: PaidRequest
    receipts: Annotated[tuple[Receipt, ...], AtMost(1)]
    outputs: Annotated[tuple[Tensor, ...], AtMost(8)]
    attestations: Annotated[tuple[Attestation, ...], AtMost(16)]
    zero_reason: Whole  # 0 while it may still earn


@dataclass(frozen=True)
class Plan:
    """A settlement, and its channels as they will be with it. One `is_full` that has no room for the next leaf."""

    body: SettleIndividual
    after: dict[bytes, Channel]
    is_full: bool


class Backlog(NamedTuple):
    """The jobs of one channel that wait to be settled, and since when the first of them does."""

    mode: str
    settled_seq: int
    waiting: int
    since_ms: int


@dataclass
class Job:
    """A job in hand. `committee` is empty until it is claimed."""

    item: PaidRequest
    rows: int = 0
    receipt: Receipt | None = None
    outputs: tuple[Tensor, ...] = ()
    claim_id: bytes = b""
    committee: tuple[bytes, ...] = ()
    attestations: dict[bytes, Attestation] = field(default_factory=dict)
    unlike: set[bytes] = field(default_factory=set)  # verifiers that found another digest and have shown nothing near
    zero_reason: int = 0
    claimed_ms: int = 0  # by this process; 0 by an earlier one
    asked_ms: int = 0  # when verifiers were asked last for what they have not said; 0 for never
    sends: int = 0  # of the result, in vain
    input_digest: bytes = b""  # of inputs that came as a blob
    is_cancelled: bool = False  # by the client, when there was no receipt yet
    recalled_ms: int = 0  # when this process took it over from an earlier one
    ended_ms: int = 0  # when it was found that it had ended

    @property
    def key(self) -> tuple[bytes, int]:
        return self.item.voucher.channel, self.item.voucher.seq

    @property
    def mode(self) -> str:
        return self.item.request.mode

    @property
    def model(self) -> bytes:
        return self.item.request.model

    @property
    def is_attested(self) -> bool:
        return bool(self.committee) and len(self.attestations) == len(self.committee) and not self.unlike

    @property
    def has_ended(self) -> bool:
        """Whether it is known what it earns, as far as this worker can know."""
        is_done = self.is_attested if self.mode == Mode.INDIVIDUAL else self.receipt is not None
        return bool(self.zero_reason) or is_done

    def to_entry(self) -> JournalEntry:
        receipts = () if self.receipt is None else (self.receipt,)
        return JournalEntry(self.item, receipts, self.outputs, tuple(self.attestations.values()), self.zero_reason)

    def to_leaf(self) -> Leaf:
        """What settles this job, which has ended, by itself."""
        if self.zero_reason:
            return Leaf(self.zero_reason, ())
        assert self.receipt is not None
        attestations = tuple(self.attestations[verifier] for verifier in self.committee)
        receipt = self.receipt
        outputs = self.outputs if any(item.shown for item in attestations) else ()
        work = Work(self.item.voucher, receipt.claim, receipt.salt, receipt.output_digest, attestations, outputs)
        return Leaf(0, (work,))

    def hear(self, item: Attestation) -> None:
        """Keep what a drawn verifier says; what it shows takes the place of its blind word."""
        assert self.receipt is not None
        self.attestations[item.verifier] = item
        value = compute_attestation(self.claim_id, item.verifier, self.receipt.output_digest)
        if item.shown or item.value == value:
            self.unlike.discard(item.verifier)
        else:
            self.unlike.add(item.verifier)


def compute_job_key(channel: bytes, seq: int) -> bytes:
    """The key of a job in the journal."""
    return channel + seq.to_bytes(8, "big")


class Workbook:
    """Jobs by (channel, seq) and by claim. `jobs` are open; settled ones are kept while their clients may ask again."""

    def __init__(self) -> None:
        self.jobs: dict[tuple[bytes, int], Job] = {}
        self._open: dict[tuple[bytes, int], Job] = {}  # those that had not ended when it was looked last
        self._claims: dict[bytes, Job] = {}
        self._answered: dict[tuple[bytes, int], Job] = {}
        self._last: dict[bytes, int] = {}  # channel -> the last voucher seen
        self._turned_away: dict[bytes, set[int]] = {}  # channel -> vouchers that were, at most TURNED_AWAY_MAX

    def add(self, job: Job) -> None:
        self.jobs[job.key] = self._open[job.key] = job
        channel, seq = job.key
        self._last[channel] = max(seq, self._last.get(channel, 0))
        if job.claim_id:
            self._claims[job.claim_id] = job

    def turn_away(self, voucher: Voucher) -> None:
        """A voucher that its channel's payer has promised buys nothing: no other one has to wait for it."""
        self._last.setdefault(voucher.channel, 0)  # perhaps none of it was taken yet
        seqs = self._turned_away.setdefault(voucher.channel, set())
        if len(seqs) < TURNED_AWAY_MAX:
            seqs.add(voucher.seq)

    def restore(
        self, entries: Iterable[JournalEntry], draw: Callable[[Receipt], tuple[bytes, ...]], now_ms: int
    ) -> None:
        """Jobs of an earlier process. `draw` gives a claim's committee."""
        for entry in entries:
            job = Job(entry.item, outputs=entry.outputs, zero_reason=entry.zero_reason, recalled_ms=now_ms)
            if entry.receipts:
                committee = draw(entry.receipts[0]) if job.mode == Mode.INDIVIDUAL else ()
                self.claim(job, entry.receipts[0], committee, now_ms=0)
                for item in entry.attestations:
                    job.hear(item)
            self.add(job)

    def restore_answered(self, entries: Iterable[JournalEntry]) -> None:
        """Settled jobs of an earlier process, for those who may still ask."""
        for entry in entries:
            job = Job(entry.item, outputs=entry.outputs, zero_reason=entry.zero_reason)
            job.receipt = entry.receipts[0] if entry.receipts else None
            job.claim_id = compute_claim_id(job.receipt.claim) if job.receipt is not None else b""
            self._answered[job.key] = job

    def claim(self, job: Job, receipt: Receipt, committee: tuple[bytes, ...], now_ms: int) -> None:
        job.receipt, job.committee, job.claimed_ms = receipt, committee, now_ms
        job.claim_id = compute_claim_id(receipt.claim)
        self._claims[job.claim_id] = job

    def find(self, channel: bytes, seq: int) -> Job | None:
        """The job of a voucher, settled or not."""
        return self.jobs.get((channel, seq)) or self._answered.get((channel, seq))

    def list_channels(self) -> list[bytes]:
        """Channels of jobs and of vouchers turned away, but for those that were closed since."""
        return list(self._last)

    def list_waiting(self, channels: Mapping[bytes, Channel]) -> list[bytes]:
        """Of these channels those with vouchers beyond the last settled one, first those that have waited longest."""

        def get_since(key: bytes) -> tuple[int, bytes]:
            job = self.jobs.get((key, channels[key].settled_seq + 1))
            return 0 if job is None else job.item.request.deadline_ms, key

        waiting = (key for key, channel in channels.items() if self._last.get(key, 0) > channel.settled_seq)
        return sorted(waiting, key=get_since)

    def list_open(self, now_ms: int) -> list[Job]:
        """Jobs of which it is not known yet what they earn, oldest first. None comes back that has ended once."""
        for job in [job for job in self._open.values() if job.has_ended]:
            job.ended_ms = now_ms
            del self._open[job.key]
        return list(self._open.values())

    def list_backlogs(self, state: State, now_ms: int) -> dict[bytes, Backlog]:
        """By channel, what waits for the ledger. A voucher that has run out waits for its client to give another."""
        backlogs: dict[bytes, Backlog] = {}
        for key, last in self._last.items():
            channel = state.channels.get(key)
            if channel is None:
                continue
            waiting, since_ms = 0, now_ms
            job = self.jobs.get((key, channel.settled_seq + 1))
            if job is not None and job.ended_ms and now_ms <= job.item.voucher.expiry_ms:
                waiting, since_ms = last - channel.settled_seq, job.ended_ms
            backlogs[key] = Backlog(channel.mode, channel.settled_seq, waiting, since_ms)
        return backlogs

    def find_claim(self, claim_id: bytes) -> Job | None:
        return self._claims.get(claim_id)

    def forget_settled(
        self, settled: Mapping[bytes, int], kept: Mapping[bytes, list[range]], count_max: int
    ) -> list[Job]:
        """Drop and return the jobs the ledger is through with, the oldest so many of them.

        `settled` is the last settled seq of each open channel, `kept` the seqs, by channel, it may still ask about.
        """
        over = (
            job
            for (channel, seq), job in self.jobs.items()
            if seq <= settled.get(channel, seq) and not any(seq in seqs for seqs in kept.get(channel, ()))
        )
        done = list(islice(over, count_max))
        for job in done:
            del self.jobs[job.key]
            self._open.pop(job.key, None)
            self._claims.pop(job.claim_id, None)
            if job.receipt is not None:
                self._answered[job.key] = job
        self._last = {channel: seq for channel, seq in self._last.items() if channel in settled}
        self._turned_away = {
            channel: left
            for channel, seqs in self._turned_away.items()
            if (left := {seq for seq in seqs if seq > settled.get(channel, seq)})
        }
        return done

    def forget_answered(self, before_ms: int, kept: Collection[tuple[bytes, int]]) -> list[tuple[bytes, int]]:
        """Drop settled jobs whose requests ended before a time, but those to be kept; the keys of what was dropped.

        They lie in the order in which they were settled, which is nearly that of their ends: the first that is to stay
        ends the search.
        """
        dropped: list[tuple[bytes, int]] = []
        most = ANSWERED_MAX + sum(key in self._answered for key in kept)
        for key, job in self._answered.items():
            if key in kept:
                continue
            if job.item.request.deadline_ms >= before_ms and len(self._answered) - len(dropped) <= most:
                break
            dropped.append(key)
        for key in dropped:
            del self._answered[key]
        return dropped

    def expire(self, now_ms: int) -> list[Job]:
        """Give up on jobs that were not attested in time, and return them."""
        late: list[Job] = []
        for job in self.list_open(now_ms):
            over_ms = max(job.item.request.deadline_ms, job.recalled_ms + RECALL_MS if job.recalled_ms else 0)
            if now_ms > over_ms + VOID_GRACE_MS:
                job.zero_reason = ZeroReason.UNATTESTED if job.receipt else ZeroReason.FAILED
                late.append(job)
        return late

    def plan(self, state: State, ahead: Mapping[bytes, Channel], now_ms: int) -> Plan | None:
        """The next runs of leaves that can be settled, per channel without a gap, behind those that are `ahead`."""
        runs: list[ChannelRun] = []
        after: dict[bytes, Channel] = {}
        leaves_left, bytes_left = LEAVES_MAX, SETTLE_BYTES_MAX
        is_full = False
        channels = {
            key: _go_ahead(record, ahead.get(key))
            for key in self.list_channels()
            if (record := state.channels.get(key)) is not None
            and record.mode == Mode.INDIVIDUAL
            and record.payee in state.nodes
        }
        for key in self.list_waiting(channels):
            if is_full:
                break
            channel = channels[key]
            run, size_bytes, channel = self._plan_run(state, key, channel, leaves_left, bytes_left, now_ms)
            bytes_left -= size_bytes
            if run.leaves:
                runs.append(run)
                after[key] = channel
                leaves_left -= len(run.leaves)
            is_full = not leaves_left or bytes_left < 0
        return Plan(SettleIndividual(tuple(runs)), after, is_full) if runs else None

    def list_ended(self, channel: bytes, first: int, count_max: int, now_ms: int) -> list[Job | None]:
        """The jobs of a channel's vouchers from `first` on that have ended, without a gap; None for one never seen."""
        last_known = self._last.get(channel, 0)
        ended: list[Job | None] = []
        for seq in range(first, min(last_known, first + count_max - 1) + 1):
            job = self.jobs.get((channel, seq))
            if not (self.is_given_up(channel, seq, now_ms) if job is None else job.has_ended):
                break
            ended.append(job)
        return ended

    def _plan_run(
        self, state: State, key: bytes, channel: Channel, leaves_max: int, bytes_max: int, now_ms: int
    ) -> tuple[ChannelRun, int, Channel]:
        """A run, its bytes, with those of the leaf that was too much if one was, and the channel after it."""
        first = channel.settled_seq + 1
        leaves: list[Leaf] = []
        size_bytes = 0
        trial, after = RunTrial(state, key, channel, now_ms), channel
        for seq, job in enumerate(self.list_ended(key, first, leaves_max, now_ms), first):
            leaf = Leaf(ZeroReason.NEVER_SEEN, ()) if job is None else _try_leaf(trial, seq, job)
            size_bytes += len(encode(leaf))
            if size_bytes > bytes_max:
                break
            leaves.append(leaf)
            # A voucher never seen is a leaf that pays nothing: it only counts.
            after = replace(trial.channel, settled_seq=seq)
        return ChannelRun(key, first, tuple(leaves)), size_bytes, after

    def is_given_up(self, channel: bytes, seq: int, now_ms: int) -> bool:
        """Whether this voucher, which this worker does not know, has or gets a zero leaf: it comes too late.

        One that was turned away holds up none behind it, one never seen only until the next one's request is over.
        """
        if seq >= self._last.get(channel, 0):
            return False
        if seq in self._turned_away.get(channel, ()):
            return True
        later = self._find_first(channel, range(seq + 1, self._last[channel] + 1))
        return later is not None and now_ms > later.item.request.deadline_ms + VOID_GRACE_MS

    def check_order(self, voucher: Voucher, state: State, now_ms: int) -> None:
        """NotAdmitted for a voucher that does not fit in with those of its channel that this worker knows."""
        channel, seq = voucher.channel, voucher.seq
        settled_seq = state.channels[channel].settled_seq
        before = self._find_first(channel, range(min(seq - 1, self._last.get(channel, 0)), settled_seq, -1))
        promised = None if before is None else before.item.voucher
        check_order(voucher, state.channels[channel], promised, self.is_given_up(channel, seq, now_ms))

    def _find_first(self, channel: bytes, seqs: Iterable[int]) -> Job | None:
        """The first of these vouchers, which stop at the last known one, that this worker knows the job of."""
        return next((job for seq in seqs if (job := self.jobs.get((channel, seq))) is not None), None)


def _go_ahead(channel: Channel, ahead: Channel | None) -> Channel:
    """A channel as it will be with what is on its way, unless that has arrived; its deposit may have grown since."""
    if ahead is None or ahead.settled_seq <= channel.settled_seq:
        return channel
    return replace(channel, paid=ahead.paid, cumulative=ahead.cumulative, settled_seq=ahead.settled_seq)


def _try_leaf(trial: RunTrial, seq: int, job: Job) -> Leaf:
    """The job's leaf, a zero leaf where the ledger would refuse it for good: one job must not hold up all others."""
    try:
        trial.add(seq, job.to_leaf())
    except InvalidTransaction:
        job.zero_reason = ZeroReason.UNPAYABLE
    return job.to_leaf()
