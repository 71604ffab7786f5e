"""Questions to the ledger's feeds, as people and workflows ask them."""

from typing import Annotated

from protocol.fast_dataclass import fast_dataclass
from protocol.types import AtMost, Name, UpTo, Whole

COLUMNS = ("open", "high", "low", "close", "volume")
SERIES_MAX = 4  # in one input
INPUTS_MAX = 8


@fast_dataclass(frozen=True)
class CandleQuery:
    """The `count` newest candles of a feed that have ended, oldest first unless `newest_first`."""

    feed: Name
    duration_ms: Whole
    count: Whole
    newest_first: Annotated[int, UpTo(1)] = 0


@fast_dataclass(frozen=True)
class SeriesQuery:
    """Some columns of candles, one column after the other. The feed may hold results of another workflow."""

    candles: CandleQuery
    columns: Annotated[tuple[Name, ...], AtMost(len(COLUMNS))]


@fast_dataclass(frozen=True)
class InputQuery:
    """One input of a model, a single row: the numbers of these series, one series after the other."""

    series: Annotated[tuple[SeriesQuery, ...], AtMost(SERIES_MAX)]


InputQueries = Annotated[tuple[InputQuery, ...], AtMost(INPUTS_MAX)]
