"""Replay tokens of simulated validators: a seed, its weather and where the run ends, as one word to paste."""

import zlib
from dataclasses import dataclass

from protocol.errors import LocalError
from testnet.consensus.weather import Weather
from testnet.sim_token import TOKEN_CHARS_MAX, get_version, pack, unpack

PREFIX = "rmc1-"


@dataclass(frozen=True)
class Run:
    """One run, and the events and trace it came to."""

    seed: int
    weather: Weather
    events: int
    trace: int
    version: str = ""


def format_token(run: Run) -> str:
    """One word of URL-safe text."""
    document = [get_version(), run.seed, run.weather.to_text(), run.events, run.trace]
    return PREFIX + pack(document)


def parse_token(token: str) -> Run:
    """Read a token back. Raises LocalError with what is wrong."""
    word = token.strip()
    if not word.startswith(PREFIX) or len(word) > TOKEN_CHARS_MAX:
        raise LocalError(
            f"a replay token of validators begins with {PREFIX} and has at most {TOKEN_CHARS_MAX} characters"
        )
    try:
        version, seed, weather, events, trace = unpack(word.removeprefix(PREFIX))
        return Run(int(seed), Weather.from_text(str(weather)), int(events), int(trace), str(version))
    except (ValueError, zlib.error, TypeError, RecursionError) as error:
        raise LocalError(f"not a replay token: {type(error).__name__}: {error}") from error
