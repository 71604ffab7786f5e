"""Workers: they take jobs as far as their bond covers them, settle, and answer what the ledger asks about batches.

A worker that lies saves what running the model costs. Closed, it is silent about a lie that is drawn: that costs the
batch and no stake.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from random import Random

from protocol.jobs import InferenceRequest, Mode, Voucher, compute_claim_id
from protocol.ledger.batches import (
    SAMPLES_MAX,
    BatchLeaf,
    BatchSettle,
    RunOfBatch,
    compute_check_key,
    compute_drawn,
    compute_pending_max,
    get_sample_bp,
    make_batch_leaf,
)
from protocol.ledger.checks import LeafDigest, RevealDigests
from protocol.ledger.dispute_records import DisputePhase
from protocol.ledger.disputes import PostExhibit, PostTrace
from protocol.ledger.job_records import RUNS_MAX, Batch, BatchPhase, Withheld
from protocol.ledger.openings import LeafOpening, OpenedWork, OpenLeaves
from protocol.ledger.state import State
from protocol.ledger.transactions import ChannelRun, Leaf, SettleIndividual, Work
from protocol.ledger.withheld import Published, PublishOutput
from protocol.merkle_sum import SumTree
from protocol.proofs.trace import Exhibit, Given, pack_trace
from protocol.tensor import Tensor, compute_tensors_digest
from protocol.types import BP
from roles.batcher import BATCH_MS
from roles.packing import pack
from roles.settler import SETTLE_MS
from testnet.bench.economy.chain import Chain
from testnet.bench.economy.jobs import Job, compute_truth, make_job, make_lie, make_outputs
from testnet.bench.economy.participant import Participant

SETTLED_MAX = 32  # leaves of mode `individual` in one transaction


@dataclass(kw_only=True)
class Worker(Participant):
    """`rows_max` is what it can run in a second.

    It lies about `lie_bp` of its jobs in some modes, and `opens` such leaves when they are drawn, or not.
    """

    rows_max: int = 0
    lie_bp: int = 0
    lies_in: frozenset[Mode] = frozenset({Mode.BATCH, Mode.INDIVIDUAL})
    opens: bool = True
    dice: Random = field(default_factory=Random)
    waiting: dict[bytes, list[Job]] = field(default_factory=dict)  # by channel, in order: not settled yet
    batches: dict[bytes, list[Job]] = field(default_factory=dict)  # by root
    told: dict[bytes, bytes] = field(default_factory=dict)  # what it claims, by claim id: for its friends
    given: dict[bytes, tuple[Tensor, ...]] = field(default_factory=dict)  # inputs, by digest
    rows_left: int = 0
    rows_taken: int = 0  # run or not
    settles_ms: dict[Mode, int] = field(default_factory=dict)

    def begin(self) -> None:
        """Another second."""
        self.rows_left = self.rows_max

    def admits(self, state: State, request: InferenceRequest) -> bool:
        """Whether it takes one more: it has the time, and its bond covers what is not paid out."""
        rows = request.inputs[0].shape[0]
        if self.is_gone or self.is_leaving or rows > self.rows_left:
            return False
        if request.mode != Mode.BATCH:
            return True
        unsettled = sum(job.claim.fee for job in self.list_waiting(Mode.BATCH))
        return unsettled + request.fee_max <= self._compute_limit(state)

    def run(self, request: InferenceRequest, voucher: Voucher) -> Job:
        """Do a job, or say so."""
        rows = request.inputs[0].shape[0]
        self.rows_left -= rows
        self.rows_taken += rows
        lies = request.mode in self.lies_in and self.dice.randrange(BP) < self.lie_bp
        if not lies:
            self.run_rows(rows)
        digest = compute_tensors_digest(request.inputs)
        self.given[digest] = request.inputs
        truth = compute_truth(digest)
        job = make_job(request, voucher, self.node, make_lie(voucher.request_id) if lies else truth)
        self.told[job.claim_id] = job.digest
        return job

    def keep(self, job: Job) -> None:
        """A job that is to be settled."""
        self.waiting.setdefault(job.voucher.channel, []).append(job)

    def act(self, chain: Chain) -> None:
        if self.is_gone:
            return
        state = chain.state
        self._forget(state)
        self._settle(chain, Mode.BATCH, BATCH_MS, self._settle_batch)
        self._settle(chain, Mode.INDIVIDUAL, SETTLE_MS, self._settle_individual)
        if not self.has_open(state):
            self.take_stake_back(chain)
        for key, batch in state.batches.items():
            if batch.worker == self.account:
                self._answer(chain, key, batch)
        for key, dispute in state.disputes.items():
            if dispute.worker == self.account:
                self._defend(chain, key)
        for challenge in state.withheld.values():
            if challenge.worker == self.account and not challenge.is_over:
                self._publish(chain, challenge)

    def _publish(self, chain: Chain, challenge: Withheld) -> None:
        """Show an output that its client says it has not got, unless it is a lie."""
        jobs = self.batches[chain.state.batches[challenge.batch].root]
        job = jobs[challenge.index]
        if job.is_true:
            path = make_tree(jobs).prove(challenge.index)
            published = Published(job.make_receipt(), make_outputs(job.claim.input_digest))
            body = PublishOutput(challenge.batch, challenge.index, make_leaf(job), path, (job.voucher,), (published,))
            chain.submit(self.account, body)

    def has_open(self, state: State) -> bool:
        """Whether anything of it waits to be settled."""
        jobs = (job for jobs in self.waiting.values() for job in jobs)
        return any(job.voucher.expiry_ms >= state.time_ms for job in jobs)

    def _forget(self, state: State) -> None:
        """What the ledger has taken waits no more; a channel that is gone takes nothing."""
        left = {}
        for key, jobs in self.waiting.items():
            channel = state.channels.get(key)
            if channel is not None:
                left[key] = [job for job in jobs if job.voucher.seq > channel.settled_seq]
        self.waiting = {key: jobs for key, jobs in left.items() if jobs}
        roots = {batch.root for batch in state.batches.values() if batch.worker == self.account}
        self.batches = {root: jobs for root, jobs in self.batches.items() if root in roots}

    def list_waiting(self, mode: Mode) -> list[Job]:
        """What is not settled yet, in the order of each channel."""
        return [job for jobs in self.waiting.values() for job in jobs if job.request.mode == mode]

    def _compute_limit(self, state: State) -> int:
        """What may yet be pending, beside the batches under way. As the ledger counts it."""
        node = state.nodes.get(self.account)
        own = [batch for batch in state.batches.values() if batch.worker == self.account]
        if node is None or len(own) >= state.params.batches_max:
            return 0
        sample_bp = get_sample_bp(state.get_epoch(state.epoch), self.account, state.params)
        least = min([sample_bp, *(batch.sample_bp for batch in own)])
        return compute_pending_max(node.bond, least, state.params) - sum(batch.total for batch in own)

    def _settle(
        self, chain: Chain, mode: Mode, every_ms: int, settle: Callable[[Chain, list[list[Job]]], None]
    ) -> None:
        ready = (jobs for jobs in self.waiting.values() if jobs[0].request.mode == mode)
        runs = list(ready)[:RUNS_MAX]
        due_ms = self.settles_ms.setdefault(mode, chain.state.time_ms + every_ms)
        if runs and chain.state.time_ms >= due_ms:
            self.settles_ms[mode] = chain.state.time_ms + every_ms
            settle(chain, runs)

    def _settle_batch(self, chain: Chain, runs: list[list[Job]]) -> None:
        left = self._compute_limit(chain.state)
        kept = []
        for jobs in runs:
            sums = accumulate(job.claim.fee for job in jobs)
            taken = [job for job, total in zip(jobs, sums, strict=True) if total <= left]
            while taken and taken[-1].voucher.expiry_ms <= chain.state.time_ms + BATCH_MS:
                taken.pop()  # the last voucher speaks for all: a younger one will
            left -= sum(job.claim.fee for job in taken)
            if taken:
                kept.append(taken)
        if not kept:
            return
        leaves = [job for jobs in kept for job in jobs]
        tree = make_tree(leaves)
        parts = [RunOfBatch(jobs[0].voucher.seq, sum(job.claim.fee for job in jobs), jobs[-1].voucher) for jobs in kept]
        self.batches[tree.root.root] = leaves
        chain.submit(self.account, BatchSettle(tuple(parts), tree.root.root))

    def _settle_individual(self, chain: Chain, runs: list[list[Job]]) -> None:
        for jobs in runs:
            channel = jobs[0].voucher.channel
            for part in range(0, len(jobs), SETTLED_MAX):
                some = jobs[part : part + SETTLED_MAX]
                run = ChannelRun(channel, some[0].voucher.seq, tuple(_make_leaf_of(job) for job in some))
                chain.submit(self.account, SettleIndividual((run,)))

    def _answer(self, chain: Chain, key: bytes, batch: Batch) -> None:
        jobs = self.batches[batch.root]
        if batch.phase == BatchPhase.OPENINGS:
            drawn = compute_drawn(batch.seed, key, batch.leaves, batch.sample_bp)
            if self.opens or all(jobs[index].is_true for index in drawn):
                self._open(chain, key, jobs, [index for index in drawn if index not in batch.opened])
        elif batch.phase == BatchPhase.DIGESTS:
            checks = ((index, chain.state.checks.get(compute_check_key(key, index))) for index in batch.opened)
            closed = [index for index, check in checks if check is not None and not check.is_void]
            items = [LeafDigest(index, jobs[index].salt, jobs[index].digest) for index in closed]
            for part in pack(items, SAMPLES_MAX):
                chain.submit(self.account, RevealDigests(key, part))

    def _open(self, chain: Chain, key: bytes, jobs: Sequence[Job], indices: Sequence[int]) -> None:
        tree = make_tree(jobs)
        openings = []
        for index in indices:
            job = jobs[index]
            work = OpenedWork(job.voucher, job.claim, job.request)
            openings.append(LeafOpening(index, make_leaf(job), (work,), tree.prove(index)))
        for part in pack(openings, SAMPLES_MAX):
            chain.submit(self.account, OpenLeaves(key, part))

    def _defend(self, chain: Chain, key: bytes) -> None:
        """Stand by what was claimed: a trace of one operator, which takes the inputs and gives the output."""
        dispute = chain.state.disputes[key]
        if dispute.phase == DisputePhase.TRACE:
            trace = pack_trace((dispute.claim.input_digest, dispute.output_digest))
            chain.submit(self.account, PostTrace(key, trace))
        elif dispute.phase == DisputePhase.EXHIBIT:
            inputs = self.given[dispute.claim.input_digest]
            chain.submit(self.account, PostExhibit(key, (Exhibit((Given(0, inputs),)),), ()))


def make_leaf(job: Job) -> BatchLeaf:
    return BatchLeaf(job.voucher.channel, job.voucher.seq, 0, job.claim.fee, compute_claim_id(job.claim))


def make_tree(jobs: Sequence[Job]) -> SumTree:
    return SumTree([make_batch_leaf(make_leaf(job)) for job in jobs])


def _make_leaf_of(job: Job) -> Leaf:
    if job.reason:
        return Leaf(job.reason, ())
    return Leaf(0, (Work(job.voucher, job.claim, job.salt, job.digest, job.attestations),))
