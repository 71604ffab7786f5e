"""`rolemesh sim`: repeat a simulated run from the token a failed test printed, or have validators agree by the seed."""

import re
from dataclasses import asdict
from typing import Annotated

from cyclopts import App, Parameter

from testnet.cli.arguments import Json
from testnet.cli.output import CommandError, ExitCode, Output

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
        The token a failed test printed.
    seeds
        A range like 0..1000: four or seven validators decide five heights each, through loss, partitions and crashes
        drawn by the seed, up to a third of them cheating. The first seed that forks, stands still or has an honest one
        accused is named.
    """
    output = Output(json)
    if bool(replay) == bool(seeds):
        raise CommandError("usage", "give --replay or --seeds", "see `rolemesh sim --help`", ExitCode.USAGE)
    return _replay(replay, output) if replay else _try_seeds(seeds, output)


def _try_seeds(text: str, output: Output) -> int:
    from testnet.consensus_sweep import Failed, sweep

    found = re.fullmatch(r"(\d{1,12})\.\.(\d{1,12})", text)
    if found is None or int(found[1]) >= int(found[2]):
        raise CommandError("bad_seeds", f"no range of seeds: {text!r}", "write it like 0..1000", ExitCode.USAGE)
    first, end = int(found[1]), int(found[2])
    sums: dict[str, int] = {}
    for start in range(first, end, PART):
        try:
            part = asdict(sweep(range(start, min(start + PART, end))))
        except Failed as error:
            hint = f"`rolemesh sim --seeds {error.seed}..{error.seed + 1}` repeats it"
            message = f"seed {error.seed}: {error.what}, with {error.weather}"
            raise CommandError(
                "invariant_violated", message, hint, ExitCode.INVARIANT_VIOLATED, seed=error.seed, what=error.what
            ) from error
        sums = {name: sums.get(name, 0) + value for name, value in part.items()}
        output.note(f"{sums['seeds']} of {end - first} seeds: no fork, no stall, nobody honest accused")
    for name, value in sums.items():
        output.say(f"{name.replace('_', ' '):>28}  {value}")
    output.give(sums)
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
