"""Clients: they open channels to the workers the ledger draws for them, ask, and are answered or refused."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from protocol.committee import compute_committee, compute_order, compute_working_set
from protocol.jobs import VERIFIERS_MIN, InferenceRequest, Mode, compute_request_id
from protocol.ledger.job_errors import TooFewCandidates
from protocol.ledger.job_records import BatchPhase
from protocol.ledger.leases import LeaseBlob, compute_lease_id, compute_term_cost, find_price
from protocol.ledger.model_records import ModelRecord
from protocol.ledger.records import EpochSnapshot
from protocol.ledger.state import State
from protocol.ledger.transactions import ChannelOpening, OpenChannels, TopUpChannel, ZeroReason
from protocol.ledger.withheld import ChallengeWithheld
from protocol.tensor import Tensor
from protocol.types import GRAINS_PER_ROLE
from testnet.bench.economy.chain import Chain
from testnet.bench.economy.jobs import DEADLINE_MS, Job, attest, end_job, make_inputs, make_voucher
from testnet.bench.economy.participant import Participant
from testnet.bench.economy.stores import find_cid, get_contents
from testnet.bench.economy.verifiers import Verifier
from testnet.bench.economy.workers import Worker
from testnet.genesis import PRICE_GRAINS

DEPOSIT = 20 * GRAINS_PER_ROLE
REPLICAS = 3  # of a blob
PERIODS, TERMS = 20, 4  # audits of a lease, and how often that is paid for at once
TOP_UP_BELOW = DEPOSIT // 2


@dataclass(frozen=True)
class Asked:
    """What came of one request. `job` is None where nobody answered it."""

    time_ms: int
    job: Job | None


@dataclass
class Purse:
    """What a client has promised out of one channel."""

    key: bytes
    seq: int = 0
    promised: int = 0


@dataclass(kw_only=True)
class Client(Participant):
    """`rows_asked` are those of each request. In mode `individual` it lets go of no answer that is not attested."""

    model: ModelRecord
    mode: Mode = Mode.BATCH
    rows_asked: int = 1
    price: int = PRICE_GRAINS  # of a row
    leases: bool = False  # a blob
    complains: bool = False  # in public, that it has not got what it has got
    inputs: tuple[Tensor, ...] = ()
    purses: dict[bytes, Purse] = field(default_factory=dict)  # by payee
    asked: list[Asked] = field(default_factory=list)
    drawn: tuple[bytes, ...] = ()  # the working set, by node key
    drawn_in: int = -1

    def act(self, chain: Chain) -> None:
        self._draw(chain.state)
        self._see_to_channels(chain)
        if self.leases and compute_lease_id(self.account, find_cid().pack()) not in chain.state.leases:
            self._lease(chain)
        if self.complains:
            self._complain(chain)

    def ask(self, chain: Chain, workers: Mapping[bytes, Worker], verifiers: Mapping[bytes, Verifier]) -> None:
        """One request, to one worker after the other until it is answered. Workers and verifiers by node key."""
        state = chain.state
        self._draw(state)
        request = self._make_request(chain)
        for attempt, node in enumerate(compute_order(compute_request_id(request), self.drawn)):
            worker = workers[node]
            purse = self.purses.get(worker.account)
            if purse is None or not worker.admits(state, request):
                continue
            if state.channels[purse.key].deposit < purse.promised + request.fee_max:
                continue
            purse.seq += 1
            voucher = make_voucher(purse.key, purse.seq, request, attempt, purse.promised, state.time_ms)
            job = worker.run(request, voucher)
            purse.promised += request.fee_max
            if self.mode == Mode.INDIVIDUAL:
                job = self._have_attested(chain, job, verifiers)
            worker.keep(job)
            if not job.reason:
                self.asked.append(Asked(state.time_ms, job))
                return
        self.asked.append(Asked(state.time_ms, None))

    def _see_to_channels(self, chain: Chain) -> None:
        """One with each of the working set, with money in it."""
        state = chain.state
        for key, channel in state.channels.items():
            if channel.payer == self.account and channel.payee not in self.purses:
                self.purses[channel.payee] = Purse(key)
        payees = [state.node_owners[node].account for node in self.drawn]
        missing = tuple(payee for payee in payees if payee not in self.purses)
        if missing:
            openings = tuple(ChannelOpening(payee, DEPOSIT, self.mode) for payee in missing)
            chain.submit(self.account, OpenChannels(openings))
        for payee in payees:
            purse = self.purses.get(payee)
            if purse is not None and state.channels[purse.key].deposit - purse.promised < TOP_UP_BELOW:
                chain.submit(self.account, TopUpChannel(purse.key, DEPOSIT))

    def _complain(self, chain: Chain) -> None:
        """About one leaf of each batch, the first it has paid for."""
        challenged = {challenge.batch for challenge in chain.state.withheld.values()}
        for key, batch in chain.state.batches.items():
            first = 0
            for run in batch.runs:
                if run.payer == self.account and batch.phase >= BatchPhase.ATTESTATIONS and key not in challenged:
                    amount = self.rows_asked * self.price
                    chain.submit(self.account, ChallengeWithheld(key, first, amount))
                    break
                first += run.leaves

    def _lease(self, chain: Chain) -> None:
        """Have a blob kept, as soon as there are enough who let room for it."""
        state, contents = chain.state, get_contents()
        price = find_price(state.offers, self.account, contents.size_bytes, REPLICAS)
        if price is not None:
            cost = compute_term_cost(contents.size_bytes, price, REPLICAS, PERIODS, state.params)
            body = LeaseBlob(find_cid().pack(), contents, price, REPLICAS, PERIODS, 1, TERMS * cost)
            chain.submit(self.account, body)

    def _draw(self, state: State) -> None:
        """The working set of the running epoch."""
        if self.drawn_in != state.epoch:
            snapshot = state.epochs[state.epoch]
            draw = (snapshot.seed, self.account, self.model.digest, snapshot.candidates)
            self.drawn = compute_working_set(*draw, state.params.working_set)
            self.drawn_in = state.epoch

    def _make_request(self, chain: Chain) -> InferenceRequest:
        if not self.inputs:
            self.inputs = make_inputs(self.model, self.rows_asked)
        return InferenceRequest(
            chain=chain.state.chain,
            account=self.account,
            client=self.node,
            model=self.model.digest,
            inputs=self.inputs,
            inputs_blob=(),
            proof="reexec",
            verifiers=VERIFIERS_MIN,
            fee_max=self.rows_asked * self.price,
            epoch=chain.state.epoch,
            deadline_ms=chain.state.time_ms + DEADLINE_MS,
            nonce=len(self.asked).to_bytes(16, "big"),
            mode=self.mode,
        )

    def _have_attested(self, chain: Chain, job: Job, verifiers: Mapping[bytes, Verifier]) -> Job:
        """All that are drawn must find what the worker says. Who finds something else is shown the receipt."""
        snapshot = chain.state.epochs[job.claim.epoch]
        try:
            drawn = draw_committee(snapshot, job)
        except TooFewCandidates:
            return end_job(job, (), ZeroReason.UNATTESTED)
        found = {node: verifiers[node].find(job.claim, job.claim_id) for node in drawn}
        for node, digest in found.items():
            if digest is not None and digest != job.digest:
                verifiers[node].dispute(chain, job)
        if any(digest != job.digest for digest in found.values()):
            is_silence = all(digest in (None, job.digest) for digest in found.values())
            return end_job(job, (), ZeroReason.UNATTESTED if is_silence else ZeroReason.DISSENT)
        return end_job(job, tuple(attest(job, node, job.digest) for node in drawn))


def draw_committee(snapshot: EpochSnapshot, job: Job) -> tuple[bytes, ...]:
    claim = job.claim
    return compute_committee(snapshot.seed, claim.request_id, claim.worker, snapshot.candidates, claim.verifiers)
