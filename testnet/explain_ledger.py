"""Explain what the ledger does of its own accord, a lease or a workflow's run, from blocks that are recomputed."""

from protocol.cid import unpack_cid
from protocol.content import format_cid
from protocol.jobs import compute_claim_id, compute_request_id
from protocol.keys import format_account
from protocol.ledger.apply import decode_transactions
from protocol.ledger.block import Block
from protocol.ledger.contests import ContestRun
from protocol.ledger.disputes import OpenDispute
from protocol.ledger.escrow import RefuseJob, SettleJob
from protocol.ledger.lease_audits import AnswerAudit
from protocol.ledger.lease_records import Lease, Replica
from protocol.ledger.leases import LeaseBlob, compute_lease_id
from protocol.ledger.state import State
from protocol.ledger.transactions import Transaction
from protocol.ledger.workflow_records import Run
from protocol.proofs.receipt_file import Finding
from testnet.dispute_course import DisputeCourse


class RunStories:
    """Runs by their job's id. `wanted` begins that, or the id of the run's request."""

    def __init__(self, wanted: str) -> None:
        self._wanted = wanted
        self._claims: dict[bytes, bytes] = {}  # claim id -> job
        self._disputes = DisputeCourse(self._claims)
        self.found: dict[bytes, list[Finding]] = {}

    def on_block(self, before: State, block: Block, after: State) -> None:
        for key in after.runs.keys() - before.runs.keys():
            run = after.runs[key]
            if any(each.hex().startswith(self._wanted) for each in (key, compute_request_id(run.request))):
                self.found[key] = [_tell_fired(key, run, after)]
        for transaction in decode_transactions(block):
            self._take(transaction, after.height)
        told = {claim_id: len(lines) for claim_id, lines in self._disputes.lines.items()}
        self._disputes.take(before, after)
        for claim_id, lines in self._disputes.lines.items():
            new = lines[told.get(claim_id, 0) :]
            self.found[self._claims[claim_id]] += [Finding("disputed", True, line) for line in new]
        for claim_id, key in self._claims.items():
            if claim_id in after.wrong and claim_id not in before.wrong:
                grains = after.wrong[claim_id].slashed
                text = f"block {after.height}: the claim was found wrong, {grains} grains of stake went"
                self.found[key].append(Finding("slashed", True, text))
        for key in self.found.keys() & (before.runs.keys() - after.runs.keys()):
            self.found[key].append(_tell_run_end(key, before.runs[key], after))

    def _take(self, transaction: Transaction, height: int) -> None:
        match transaction.content:
            case SettleJob(job, claim, attestations=words) if job in self.found:
                self._claims[compute_claim_id(claim)] = job
                text = f"its worker was attested by all {len(words)} drawn verifiers and paid {claim.fee} grains"
                self.found[job].append(Finding("settled", True, f"block {height}: {text}"))
            case ContestRun(job, receipt, words, _) if job in self.found:
                self._claims[compute_claim_id(receipt.claim)] = job
                text = f"not all of {len(words)} verifiers agree, its worker stands by its result: it is contested"
                self.found[job].append(Finding("contested", True, f"block {height}: {text}"))
            case RefuseJob(job) if job in self.found:
                self.found[job].append(Finding("refused", True, f"block {height}: its worker refused it"))
            case OpenDispute(receipt=(receipt,)) if receipt.claim.channel in self.found:
                self._claims[compute_claim_id(receipt.claim)] = receipt.claim.channel


class LeaseStories:
    """Leases by their ids. `wanted` begins that, or is the CID of what they keep."""

    def __init__(self, wanted: str) -> None:
        self._wanted = wanted
        self._put_in: dict[bytes, int] = {}  # grains
        self._answers: dict[bytes, int] = {}
        self._last: dict[bytes, Lease] = {}
        self._told: dict[bytes, list[Finding]] = {}

    @property
    def found(self) -> dict[bytes, list[Finding]]:
        """What happened to each, and how far it has been paid."""
        return {key: [*lines, self._tell_pay(key)] for key, lines in self._told.items()}

    def on_block(self, before: State, block: Block, after: State) -> None:
        for key in after.leases.keys() - before.leases.keys():
            lease = after.leases[key]
            if key.hex().startswith(self._wanted) or str(unpack_cid(lease.cid)) == self._wanted:
                self._told.setdefault(key, []).append(_tell_opened(lease, after.height))
        for transaction in decode_transactions(block):
            match transaction.content:
                case LeaseBlob() as body:
                    key = compute_lease_id(transaction.account, body.cid)
                    self._put_in[key] = self._put_in.get(key, 0) + body.amount
                case AnswerAudit(key, _):
                    self._answers[key] = self._answers.get(key, 0) + 1
        for key, lines in self._told.items():
            last, now = before.leases.get(key), after.leases.get(key)
            if now is not None:
                self._last[key] = now
                lines += _tell_replicas(last, now, after.height)
            elif last is not None:
                text = f"block {after.height}: it ended, and {last.balance} grains went back to its payer"
                lines.append(Finding("ended", True, text))

    def _tell_pay(self, key: bytes) -> Finding:
        answers, put_in = self._answers.get(key, 0), self._put_in.get(key, 0)
        paid = put_in - self._last[key].balance
        text = f"{answers} audits were answered, for {paid} of {put_in} grains put in"
        return Finding("audited", True, text)


def _tell_fired(key: bytes, run: Run, after: State) -> Finding:
    job, workflow = after.jobs[key], after.workflows[run.workflow]
    text = (
        f"tick {run.tick} of workflow {workflow.name!r} asks {format_account(job.payee)} for model "
        f"{format_cid(run.request.model)}, for at most {job.amount} grains, attested by {job.verifiers}"
    )
    return Finding("fired", True, f"block {after.height}: {text}")


def _tell_run_end(key: bytes, run: Run, after: State) -> Finding:
    workflow = after.workflows.get(run.workflow)
    tick = next((tick for tick in workflow.past if tick.job == key), None) if workflow is not None else None
    if tick is None:
        return Finding("ended", False, f"what came of it: block {after.height} ended it with its workflow")
    value = f", with the value {tick.value[0]}" if tick.value else ", and its money is budget again if nobody was paid"
    return Finding("ended", True, f"block {after.height}: the tick is {tick.outcome}{value}")


def _tell_opened(lease: Lease, height: int) -> Finding:
    text = (
        f"{format_account(lease.payer)} has {lease.contents.size_bytes} bytes of {unpack_cid(lease.cid)} kept by "
        f"{lease.factor} nodes, {lease.periods} audits a term{', renewed' if lease.renews else ''}"
    )
    return Finding("opened", True, f"block {height}: {text}")


def _tell_replicas(last: Lease | None, lease: Lease, height: int) -> list[Finding]:
    """Who was drawn, accepted, missed an audit or is in it no more, since the block before."""
    known = {replica.account: replica for replica in last.replicas} if last is not None else {}
    now = {replica.account: replica for replica in lease.replicas}
    told = [_tell_replica(known.get(account), replica, height) for account, replica in now.items()]
    gone = [_tell_gone(known[account], height) for account in known.keys() - now.keys()]
    return [finding for finding in (*told, *gone) if finding is not None]


def _tell_replica(last: Replica | None, now: Replica, height: int) -> Finding | None:
    who = format_account(now.account)
    if last is None:
        return Finding("drawn", True, f"block {height}: {who} is drawn to keep it")
    if now.height and not last.height:
        return Finding("accepted", True, f"block {height}: {who} has it and found what the payer says")
    if now.misses > last.misses:
        return Finding("missed", True, f"block {height}: {who} did not answer an audit, {now.misses} in a row")
    return None


def _tell_gone(last: Replica, height: int) -> Finding:
    why = "lost it, or gave it back" if last.height else "did not take it"
    return Finding("left", True, f"block {height}: {format_account(last.account)} {why}")
