"""Scheduled work on a ledger of its own: a feed with some history, a model, a workflow, its runs settled by hand."""

from collections.abc import Sequence
from dataclasses import replace

from protocol.candles import compute_feed_key
from protocol.jobs import Receipt
from protocol.ledger.contests import ContestRun
from protocol.ledger.escrow import SettleJob
from protocol.ledger.feeds import ObserveFeed
from protocol.ledger.model_records import ModelRecord, TensorSpec
from protocol.ledger.params import Params
from protocol.ledger.workflow_records import Run, Workflow
from protocol.ledger.workflows import AddWorkflow
from protocol.queries import CandleQuery, InputQuery, SeriesQuery
from protocol.tensor import Tensor
from tests.support.feeds import HEARTBEAT_MS, TERMS, report
from tests.support.jobs import PRICE, attest, make_receipt, pay
from tests.support.ledgers import Ledger

PARAMS = Params()
MODEL = ModelRecord(
    name="sum",
    digest=b"m" * 32,
    exact=1,
    inputs=(TensorSpec("int64", (0, 3)),),
    outputs=(TensorSpec("int64", (0, 1)),),
    labels=(),
)
EVERY_MS = 2_000
QUERY = InputQuery((SeriesQuery(CandleQuery(TERMS.name, HEARTBEAT_MS, 3), ("close",)),))
NAME = "mean"
OTHER = b"\x01" * 32  # what verifiers in dissent have found


def make_body(ledger: Ledger, ticks: int = 10, **changes: object) -> AddWorkflow:
    body = AddWorkflow(
        name=NAME,
        model=MODEL.digest,
        inputs=(QUERY,),
        every_ms=EVERY_MS,
        end_ms=(ledger.state.time_ms // EVERY_MS + ticks) * EVERY_MS,
        fee=2 * PRICE,
        verifiers=2,
        timeout_ms=1_000,
        budget=1_000 * PRICE,
        decimals=0,
        age_ms_max=60_000,
    )
    return replace(body, **changes)  # type: ignore[arg-type]


def found(**changes: object) -> Ledger:
    """A ledger with a feed that one oracle observes, three rounds of history, and a model that three nodes serve."""
    params = replace(PARAMS, grace_ms=100, **changes) if "grace_ms" not in changes else replace(PARAMS, **changes)  # type: ignore[arg-type]
    roles = {"validator": 1, "oracle": 1, "client": 1, "inference": 3, "verifier": 3}
    ledger = Ledger(roles, params=params, models=(MODEL,))
    ledger.do(ledger.account("client-0"), replace(TERMS, jump_bp=0, outlier_bp=0))
    ledger.do(ledger.account("oracle-0"), ObserveFeed(TERMS.name, 1))
    for number in range(4):
        go_to(ledger, (ledger.state.time_ms // HEARTBEAT_MS + 1) * HEARTBEAT_MS)
        ledger.do(ledger.spare(), report(ledger, {"oracle-0": 100 + number}), after_ms=1)
    return ledger


def go_to(ledger: Ledger, time_ms: int) -> None:
    """An empty block at a time, unless it has passed."""
    if time_ms > ledger.state.time_ms:
        ledger.block(after_ms=time_ms - ledger.state.time_ms)


def keep_fresh(ledger: Ledger, time_ms: int, value: int = 200) -> None:
    """Go on to a time, reporting in every round on the way."""
    while ledger.state.time_ms // HEARTBEAT_MS < time_ms // HEARTBEAT_MS:
        go_to(ledger, (ledger.state.time_ms // HEARTBEAT_MS + 1) * HEARTBEAT_MS)
        ledger.do(ledger.spare(), report(ledger, {"oracle-0": value}), after_ms=1)
    go_to(ledger, time_ms)


def get_workflow(ledger: Ledger) -> Workflow:
    return ledger.state.workflows[compute_feed_key(NAME)]


def list_runs(ledger: Ledger) -> list[tuple[bytes, Run]]:
    return sorted(ledger.state.runs.items(), key=lambda item: item[1].tick)


def find_worker(ledger: Ledger, job: bytes) -> str:
    payee = ledger.state.jobs[job].payee
    return next(name for name in ledger.foundation.nodes if ledger.account(name).public == payee)


def do_run(ledger: Ledger, job: bytes, value: int = 7, fee: int = PRICE, **changes: object) -> Receipt:
    """What the worker of a run signs when it has found a value; `changes` are to the request."""
    run, worker = ledger.state.runs[job], find_worker(ledger, job)
    item = pay(run.request, ledger.foundation, job, 0, amount=fee)
    request = replace(run.request, **changes)  # type: ignore[arg-type]
    return make_receipt(replace(item, request=request), ledger.node(worker), make_outputs(value))


def make_outputs(value: int) -> tuple[Tensor, ...]:
    return (Tensor("int64", (1, 1), value.to_bytes(8, "little", signed=True)),)


def settle(ledger: Ledger, job: bytes, value: int = 7, fee: int = PRICE, **changes: object) -> SettleJob:
    receipt = do_run(ledger, job, value, fee, **changes)
    attestations = attest(ledger.state, ledger.foundation, receipt, receipt.output_digest)
    return SettleJob(job, receipt.claim, receipt.salt, receipt.output_digest, attestations, make_outputs(value))


def contest(ledger: Ledger, job: bytes, value: int = 7, dissenting: Sequence[int] = (1,)) -> ContestRun:
    """The same, some of the verifiers, by their places in the committee, having found something else."""
    receipt = do_run(ledger, job, value)
    agreed = attest(ledger.state, ledger.foundation, receipt, receipt.output_digest)
    others = attest(ledger.state, ledger.foundation, receipt, OTHER)
    said = tuple(others[place] if place in dissenting else item for place, item in enumerate(agreed))
    return ContestRun(job, receipt, said, make_outputs(value))


def start(ledger: Ledger, **changes: object) -> int:
    """A workflow that was just fired for the first time; the tick."""
    ledger.do(ledger.account("client-0"), make_body(ledger, **changes), after_ms=1)
    tick = get_workflow(ledger).next_tick
    keep_fresh(ledger, tick * EVERY_MS)
    return tick
