"""`rolemesh sim`: repeat a simulated run from the token a failed test printed, or have validators agree by the seed."""

import re
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from testnet.cli.arguments import Json
from testnet.cli.output import CommandError, ExitCode, Output

if TYPE_CHECKING:
    from testnet.consensus.sweep import Failed

PART = 100  # seeds between two lines of progress


def add_to(app: App) -> None:
    """Add the command to the tree."""
    app.command(
        sim,
        help_epilogue="Examples:\n\n  rolemesh sim --replay rms1-...\n\n  rolemesh sim --replay rms1-... --json\n\n"
        "  rolemesh sim --seeds 0..1000",
    )


def sim(
    *,
    replay: Annotated[str, Parameter(name="--replay")] = "",
    seeds: Annotated[str, Parameter(name="--seeds")] = "",
    json: Json = False,
) -> int:
    """Repeat a simulated run exactly, to its last event, and say what happened; or try consensus on many seeds.

    Exits 6 when an invariant was violated.

    Parameters
    ----------
    replay
        The token a failed test or range of seeds printed.
    seeds
        A range like 0..1000: four or seven validators order a ledger through what each seed draws: loss, partitions,
        clogged ways, crashes right after a vote, disks that tear, power cuts, wrong clocks, and up to a third of them
        cheating. The first seed that forks, stands still after the weather has calmed, loses a grain or has an honest
        one accused is named, with the least weather that does it.
    """
    output = Output(json)
    if bool(replay) == bool(seeds):
        raise CommandError("usage", "give --replay or --seeds", "see `rolemesh sim --help`", ExitCode.USAGE)
    if seeds:
        return _try_seeds(seeds, output)
    return (_replay_validators if replay.strip().startswith("rmc1-") else _replay)(replay, output)


def _try_seeds(text: str, output: Output) -> int:
    from testnet.consensus.sweep import Failed, Sweep, sweep

    found = re.fullmatch(r"(\d{1,12})\.\.(\d{1,12})", text)
    if found is None or int(found[1]) >= int(found[2]):
        raise CommandError("bad_seeds", f"no range of seeds: {text!r}", "write it like 0..1000", ExitCode.USAGE)
    first, end = int(found[1]), int(found[2])
    sums = Sweep()
    for start in range(first, end, PART):
        try:
            sums.merge(sweep(range(start, min(start + PART, end))).to_dict())
        except Failed as error:
            raise _report(error, output) from error
        output.note(f"{sums.seeds} of {end - first} seeds: no fork, no stall, supply conserved, nobody honest accused")
    for name, value in sums.to_dict().items():
        share = f"  {100 * value / sums.seeds:5.1f} %" if name.startswith("with_") else ""
        output.say(f"{name.replace('_', ' '):>28}  {value:>9}{share}")
    missing = sums.find_missing()
    if missing:
        hint = "the weather of these seeds shows too little: see testnet/consensus/weather.py"
        raise CommandError("too_little", "; ".join(missing), hint, ExitCode.INVARIANT_VIOLATED, **sums.to_dict())
    output.give(sums.to_dict())
    return int(ExitCode.OK)


def _report(error: "Failed", output: Output) -> CommandError:
    for line in error.last_events:
        output.say(line)
    output.say(f"     weather  {error.weather.to_text()}")
    output.say(f"       least  {error.milder.to_text()}")
    hint = f"`rolemesh sim --replay {error.token}` repeats it in the least weather"
    fields = {"seed": error.seed, "what": error.what, "weather": error.milder.to_text(), "token": error.token}
    last = list(error.last_events)
    message = f"seed {error.seed}: {error.what}"
    return CommandError("invariant_violated", message, hint, ExitCode.INVARIANT_VIOLATED, **fields, last_events=last)


def _replay_validators(token: str, output: Output) -> int:
    from protocol.errors import LocalError
    from testnet.consensus.network import Agreement
    from testnet.consensus.token import parse_token

    try:
        told = parse_token(token)
    except LocalError as error:
        raise CommandError("bad_token", str(error), "copy the whole token", ExitCode.USAGE) from error
    run = Agreement(told.seed, told.weather)
    found = run.run()
    is_same = (found.events, run.trace) == (told.events, told.trace)
    for line in run.describe_last():
        output.say(line)
    fields = {
        "seed": told.seed,
        "weather": told.weather.to_text(),
        "version": told.version,
        "is_same": is_same,
        "elapsed_ms": run.now_ms,
        "height": run.tip.height,
        "violations": found.violations,
        "last_events": list(run.describe_last()),
    }
    for key, value in fields.items():
        if key != "last_events":
            output.say(f"{key:>12}  {value}")
    if not is_same:
        output.note(f"made by rolemesh {told.version or '?'}: with this version the run took another course")
    if found.violations:
        message = f"the run violates: {'; '.join(found.violations)}"
        hint = "the events above led to it"
        raise CommandError("invariant_violated", message, hint, ExitCode.INVARIANT_VIOLATED, **fields)
    output.give(fields)
    return int(ExitCode.OK)


def _replay(token: str, output: Output) -> int:
    from protocol.errors import LocalError
    from testnet.sim_replay import describe
    from testnet.sim_replay import replay as run_again

    try:
        result = run_again(token)
    except LocalError as error:
        hint = "copy the whole token: it begins with rms1-"
        raise CommandError("bad_token", str(error), hint, ExitCode.USAGE) from error
    found = describe(result)
    start_ms = result.network.kernel.start_ms
    for event in found["last_events"]:
        rest = " ".join(f"{key}={value}" for key, value in event.items() if key not in ("time_ms", "node", "name"))
        output.say(f"{event['time_ms'] - start_ms:>8} ms  {event['node']:<14} {event['name']:<20} {rest}")
    for key, value in found.items():
        if key != "last_events":
            output.say(f"{key:>12}  {value}")
    if not result.is_same:
        output.note(f"made by rolemesh {result.replay.version or '?'}: with this version the run took another course")
    if found["violations"]:
        message = f"the run violates: {'; '.join(found['violations'])}"
        raise CommandError(
            "invariant_violated", message, "the events above led to it", ExitCode.INVARIANT_VIOLATED, **found
        )
    output.give(found)
    return int(ExitCode.OK)
