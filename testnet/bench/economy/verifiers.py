"""Verifiers: they run drawn work again and say what they found. And those that do not."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from protocol.jobs import Claim, compute_attestation, compute_claim_id
from protocol.ledger.batches import SAMPLES_MAX
from protocol.ledger.checks import AttestLeaves, LeafAttestation
from protocol.ledger.dispute_records import DisputePhase
from protocol.ledger.disputes import CheckedLeaf, NameOperator, OpenDispute
from protocol.ledger.job_records import BatchPhase
from roles.packing import pack
from testnet.bench.economy.chain import Chain
from testnet.bench.economy.jobs import PROFILE, Job, compute_truth, make_lie
from testnet.bench.economy.participant import Participant


class Checking(StrEnum):
    """How a verifier comes by what it says."""

    RUNS = "runs"  # it runs the model
    GUESSES = "guesses"  # it saves that, and says anything
    SILENT = "silent"
    ASKS = "asks"  # it has the worker tell it, if that is a friend; else it guesses


Tell = Callable[[bytes], bytes | None]  # what a friend claims, by claim id


@dataclass(kw_only=True)
class Verifier(Participant):
    """`tell` is its friends' word in league."""

    checking: Checking = Checking.RUNS
    tell: Tell | None = None
    ran: set[bytes] = field(default_factory=set)  # claims, by id

    def find(self, claim: Claim, claim_id: bytes) -> bytes | None:
        """The digest it will stand by; None if it says nothing."""
        if self.is_gone or self.checking is Checking.SILENT:
            return None
        told = self.tell(claim_id) if self.tell is not None else None
        if told is not None:
            return told
        if self.checking is not Checking.RUNS:
            return make_lie(claim_id)
        if claim_id not in self.ran:
            self.ran.add(claim_id)
            self.run_rows(claim.rows)
        return compute_truth(claim.input_digest)

    def act(self, chain: Chain) -> None:
        self.take_stake_back(chain)
        if self.is_gone or self.checking is Checking.SILENT:
            return
        asked = defaultdict(list)
        for key, check in chain.state.checks.items():
            own = next((item for item in check.checkers if item.account == self.account), None)
            if own is None or check.is_void:
                continue
            batch, index = key[:32], int.from_bytes(key[32:], "big")
            phase = chain.state.batches[batch].phase
            claim_id = compute_claim_id(check.claim)
            if phase == BatchPhase.ATTESTATIONS and not own.value:
                digest = self.find(check.claim, claim_id)
                if digest is not None:
                    asked[batch].append(LeafAttestation(index, compute_attestation(claim_id, self.node, digest)))
            elif phase == BatchPhase.WINDOW and self.checking is Checking.RUNS:
                truth = compute_truth(check.claim.input_digest)
                is_ours = own.value == compute_attestation(claim_id, self.node, truth)
                if is_ours and truth != check.output_digest and not self._is_disputed(chain, check.claim):
                    body = OpenDispute((), (CheckedLeaf(batch, index),), truth, PROFILE)
                    chain.submit(self.account, body)
        for batch, items in asked.items():
            for part in pack(items, SAMPLES_MAX):
                chain.submit(self.account, AttestLeaves(batch, part))
        for key, dispute in chain.state.disputes.items():
            if dispute.challenger == self.account and dispute.phase == DisputePhase.NAME:
                chain.submit(self.account, NameOperator(key, 1))

    def dispute(self, chain: Chain, job: Job) -> None:
        """Stand by a dissent in mode `individual`, by the receipt that the client shows."""
        if self.checking is Checking.RUNS and not self._is_disputed(chain, job.claim):
            truth = compute_truth(job.claim.input_digest)
            chain.submit(self.account, OpenDispute((job.make_receipt(),), (), truth, PROFILE))

    def _is_disputed(self, chain: Chain, claim: Claim) -> bool:
        return any(dispute.claim == claim for dispute in chain.state.disputes.values())
