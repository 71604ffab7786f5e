"""`rolemesh workflow`: scheduled work over feeds: put it on the ledger, see what became of its ticks."""

from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from testnet.cli.arguments import Json, parse_amount, parse_duration
from testnet.cli.ledger import Where, read_state
from testnet.cli.output import CommandError, ExitCode, Output, format_decimal, format_role, format_table, format_time
from testnet.cli.wallet import From, NoWait, Timeout, find_payer, order_final

if TYPE_CHECKING:
    from protocol.ledger.state import State
    from protocol.ledger.workflow_records import Tick, Workflow
    from protocol.queries import InputQuery

app = App(
    name="workflow",
    help="Scheduled work: the ledger has a model run over feeds, tick by tick, and publishes what it finds.",
    help_epilogue="Examples:\n\n  rolemesh workflow add calm --model volatility --input GOOG:close:5s:9 --every 1m\n\n"
    "  rolemesh workflow ls\n\n  rolemesh workflow runs calm",
)
Name = Annotated[str, Parameter(name="NAME", help="The workflow's name, which is that of the feed of its results.")]


@app.command(
    help_epilogue="Examples:\n\n  rolemesh workflow add calm --model volatility --input GOOG:close:5s:9 --every 1m\n\n"
    "  rolemesh workflow add next --model forecast --input GOOG:close:1m:9 --every 1m --for 2h --decimals 6\n\n"
    "  rolemesh workflow add both --model pair --input GOOG:close:5s:4+calm:close:1m:4 --every 5m --json"
)
def add(
    name: Name,
    /,
    *,
    model: Annotated[str, Parameter(name="--model", help="Name, name@version, CID or sha256 of a model.")],
    input: Annotated[tuple[str, ...], Parameter(name="--input")],
    every: str,
    duration: Annotated[str, Parameter(name="--for")] = "1h",
    budget: str = "1",
    fee: str = "0.01",
    verifiers: int = 2,
    run_timeout: str = "10s",
    decimals: int = 0,
    age_max: str = "",
    payer: From = "",
    no_wait: NoWait = False,
    timeout: Timeout = "30s",
    json: Json = False,
) -> None:
    """Have the ledger run a model over feeds on schedule, until an end or for as long as a budget lasts.

    Every tick is fired once, by whichever block reaches it, or noted as missed with the reason. Each run is done by a
    worker drawn for it and attested by all verifiers drawn for it. Results are a feed: `rolemesh oracle candles NAME`.

    Parameters
    ----------
    input
        One for each input of the model: FEED:COLUMNS:DURATION:COUNT, the COUNT newest candles that have ended, oldest
        first. Columns of open, high, low, close, volume with commas between; several series with + between.
    every
        Time between ticks, which lie on whole multiples of it.
    duration
        How long from now on.
    budget
        ROLE that are locked for its runs; what is left comes back. So does a deposit for the feed, as for a model.
    fee
        The most ROLE one run costs.
    run_timeout
        How long each run may take.
    decimals
        Results are kept as whole numbers of 10^-DECIMALS; results of whole-number models are such numbers already.
    age_max
        How old a result may be when others use it; twice the time between ticks unless given.
    """
    from protocol.ledger.workflows import AddWorkflow
    from roles.models import find_model

    output = Output(json)
    directory = find_payer(payer)
    state, _ = read_state(directory)
    record = find_model(state, model)
    if record is None:
        raise CommandError("unknown_model", f"no model {model!r}", "`rolemesh model ls` shows them", ExitCode.USAGE)
    every_ms = round(1_000 * parse_duration(every))
    begin_ms = _find_now_ms(state)
    body = AddWorkflow(
        name=name,
        model=record.digest,
        inputs=tuple(parse_input(text) for text in input),
        every_ms=every_ms,
        end_ms=begin_ms + round(1_000 * parse_duration(duration)),
        fee=parse_amount(fee),
        verifiers=verifiers,
        timeout_ms=round(1_000 * parse_duration(run_timeout)),
        budget=parse_amount(budget),
        decimals=decimals,
        age_ms_max=round(1_000 * parse_duration(age_max)) if age_max else 2 * every_ms,
    )
    told = order_final(directory, body, timeout, no_wait)
    when = "on its way" if told["height"] is None else f"final at height {told['height']} after {told['took_ms']} ms"
    deposit = state.params.model_deposit
    output.say(
        f"workflow {name}: {when}; {format_role(body.budget)} for its runs, each {format_role(body.fee)} at most; "
        f"deposit {format_role(deposit)}"
    )
    money = {"budget_grains": body.budget, "deposit_grains": deposit}
    output.give({**told, "workflow": name, "every_ms": every_ms, "end_ms": body.end_ms, **money})


@app.command(
    help_epilogue="Examples:\n\n  rolemesh workflow end calm\n\n  rolemesh workflow end calm --from ./wallet --json"
)
def end(
    name: Name, /, *, payer: From = "", no_wait: NoWait = False, timeout: Timeout = "30s", json: Json = False
) -> None:
    """End a workflow of your own. The run that is open still ends as it would have; then what is left comes back."""
    from protocol.ledger.workflows import EndWorkflow

    output = Output(json)
    told = order_final(find_payer(payer), EndWorkflow(name), timeout, no_wait)
    output.say(f"workflow {name} ends" + (f" at height {told['height']}" if told["height"] is not None else ""))
    output.give({**told, "workflow": name})


@app.command(
    help_epilogue="Examples:\n\n  rolemesh workflow ls\n\n  rolemesh workflow ls --dir .rolemesh/dev-42 --json"
)
def ls(*, directory: Where = None, json: Json = False) -> None:
    """List workflows: what they run, how their ticks ended, what is left of their budgets."""
    output = Output(json)
    state, _ = read_state(directory)
    rows = [_describe(state, workflow) for workflow in _list_workflows(state)]
    cells = [
        (
            row["workflow"],
            row["model"],
            f"{row['every_ms'] / 1_000:g} s",
            *(str(row[key]) for key in ("fired", "done", "missed")),
            format_role(row["budget_grains"]),
            "goes on" if row["is_on"] else "ended",
        )
        for row in rows
    ]
    output.say(format_table(("WORKFLOW", "MODEL", "EVERY", "FIRED", "DONE", "MISSED", "BUDGET", "STATE"), cells))
    output.say(f"at height {state.height}, as that node has it")
    output.give({"height": state.height, "workflows": rows})


@app.command(help_epilogue="Examples:\n\n  rolemesh workflow runs calm\n\n  rolemesh workflow runs calm --json")
def runs(name: Name, /, *, directory: Where = None, json: Json = False) -> None:
    """Show what became of a workflow's last ticks, those missed with the reason."""
    output = Output(json)
    state, _ = read_state(directory)
    workflow = next((item for item in _list_workflows(state) if item.name == name), None)
    if workflow is None:
        known = ", ".join(item.name for item in _list_workflows(state)) or "none"
        raise CommandError("unknown_workflow", f"no workflow {name!r}", f"there are {known}", ExitCode.USAGE)
    terms = state.feed_terms.get(name)
    decimals = 0 if terms is None else terms.decimals
    rows = [
        {
            "first": tick.first,
            "last": tick.last,
            "from_ms": tick.first * workflow.every_ms,
            "outcome": _tell_outcome(state, tick),
            "value": tick.value[0] if tick.value else None,
            "shown": format_decimal(tick.value[0], decimals) if tick.value else "",
            "job": tick.job.hex(),
        }
        for tick in workflow.past
    ]
    cells = [
        (
            str(row["first"]) if row["first"] == row["last"] else f"{row['first']} to {row['last']}",
            format_time(int(str(row["from_ms"]))),
            str(row["outcome"]),
            str(row["shown"]),
        )
        for row in rows
    ]
    output.say(format_table(("TICK", "TIME (UTC)", "OUTCOME", "VALUE"), cells))
    told = f"{workflow.fired} fired, {workflow.done} of them done, {workflow.missed} missed"
    output.say(f"{told}, at height {state.height}")
    if any(row["outcome"] == "contested" for row in rows):
        output.say("contested: its verifiers do not agree; who found something else disputes it, or it is settled")
    output.give({"height": state.height, **_describe(state, workflow), "ticks": rows})


def parse_input(text: str) -> "InputQuery":
    """One input of a model as people write it. Raises CommandError.

    >>> parse_input("GOOG:high,low:1m:4").series[0].columns
    ('high', 'low')
    """
    from protocol.queries import CandleQuery, InputQuery, SeriesQuery

    series = []
    for part in text.split("+"):
        words = part.split(":")
        if len(words) != 4 or not words[3].isascii() or not words[3].isdecimal():
            hint = "write it like GOOG:close:5s:9, and several with + between"
            raise CommandError("bad_input", f"not an input: {part!r}", hint, ExitCode.USAGE)
        feed, columns, duration, count = words
        query = CandleQuery(feed, round(1_000 * parse_duration(duration)), int(count))
        series.append(SeriesQuery(query, tuple(columns.split(","))))
    return InputQuery(tuple(series))


def _find_now_ms(state: "State") -> int:
    """Now by this machine's clock, as the network's header times go by it too; never before the ledger's."""
    import time

    return max(state.time_ms, time.time_ns() // 1_000_000)


def _list_workflows(state: "State") -> "list[Workflow]":
    return sorted(state.workflows.values(), key=lambda item: item.name)


def _describe(state: "State", workflow: "Workflow") -> dict[str, Any]:
    model = state.models.get(workflow.model)
    return {
        "workflow": workflow.name,
        "model": f"{model.name}@{model.version}" if model is not None else workflow.model.hex()[:16],
        "every_ms": workflow.every_ms,
        "end_ms": workflow.end_ms,
        "fired": workflow.fired,
        "done": workflow.done,
        "missed": workflow.missed,
        "budget_grains": workflow.budget,
        "is_on": bool(workflow.next_tick),
    }


def _tell_outcome(state: "State", tick: "Tick") -> str:
    run = state.runs.get(tick.job)
    return "contested" if run is not None and run.contest else tick.outcome
