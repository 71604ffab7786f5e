"""`rolemesh sim`: repeat a simulated run from the token a failed test printed."""

from typing import Annotated

from cyclopts import App, Parameter

from testnet.cli.arguments import Json
from testnet.cli.output import CommandError, ExitCode, Output


def add_to(app: App) -> None:
    """Add the command to the tree."""
    app.command(
        sim, help_epilogue="Examples:\n\n  rolemesh sim --replay rms1-...\n\n  rolemesh sim --replay rms1-... --json"
    )


def sim(*, replay: Annotated[str, Parameter(name="--replay")], json: Json = False) -> int:
    """Repeat a simulated run exactly, to its last event, and say what happened. Exits 6 when an invariant was violated.

    Parameters
    ----------
    replay
        The token a failed test printed.
    """
    from protocol.errors import LocalError
    from testnet.sim_replay import describe
    from testnet.sim_replay import replay as run_again

    output = Output(json)
    try:
        result = run_again(replay)
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
