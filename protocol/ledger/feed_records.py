"""What the ledger remembers of feeds of outside data and of their history."""

from typing import Annotated

from protocol.fast_dataclass import fast_dataclass
from protocol.ledger.limits import CANDLES_PER_PAGE, OBSERVERS_MAX
from protocol.ledger.records import MaybeKey
from protocol.types import AtMost, Grains, Line, Name, PublicKey, ShareBp, Signed, TimeMs, Whole


@fast_dataclass(frozen=True)
class FeedRecord:
    """A feed of genesis. Its terms follow from the parameters (`feeds.build_genesis_terms`)."""

    name: Name


@fast_dataclass(frozen=True)
class FeedTerms:
    """What a feed measures and what its reports are held to: a promise to all who read it. All it can do is retire.

    Values are whole numbers of 10^-decimals, below nought too. `source` is one of `feeds.SOURCES`; `address` and `path`
    say where its observers look. A share of 0 turns its rule off. Feeds of genesis are nobody's.
    """

    name: Name
    owner: MaybeKey
    deposit: Grains
    source: Name
    address: Line
    path: Line
    decimals: Whole
    heartbeat_ms: Whole  # a report is due in every round of this length
    deviation_bp: ShareBp  # between heartbeats, a value this far from the last one may be reported
    outlier_bp: ShareBp  # an observation this far from the median counts against its observer
    jump_bp: ShareBp  # a value this far from the last one is held until the next round confirms it
    observers_min: Whole
    age_ms_max: Whole  # of an observation when it is reported, and of a value when it is used
    allowed: Annotated[tuple[PublicKey, ...], AtMost(OBSERVERS_MAX)]  # accounts that may observe; none for any oracle
    retired_ms: TimeMs = 0  # 0 while it is reported on


@fast_dataclass(frozen=True)
class FeedState:
    """The last report of a feed, at position (round, sequence), and the last value that was taken.

    `observers` is how many observations that value is the median of, `observed_ms` the median of their times,
    `time_ms` the header time of the block that took it. `held` is a value beyond the feed's jump that waits to be
    confirmed by another round. `reports` counts all there have been.
    """

    round: Whole
    sequence: Whole
    value: Signed
    time_ms: TimeMs
    observed_ms: TimeMs
    observers: Whole
    reports: Whole = 0
    held: Annotated[tuple[Signed, ...], AtMost(1)] = ()


@fast_dataclass(frozen=True)
class Observer:
    """An account that observes a feed, from the round after `since_ms`. `missed` counts reports without it in a row.

    `left_ms` is 0 while it observes. After that it still answers for what it has signed.
    """

    account: PublicKey
    since_ms: TimeMs
    left_ms: TimeMs = 0
    missed: Whole = 0


@fast_dataclass(frozen=True)
class Candle:
    """What a feed did in one period. `volume` counts the observations behind its reports."""

    period: Whole
    open: Signed
    high: Signed
    low: Signed
    close: Signed
    volume: Whole


@fast_dataclass(frozen=True)
class CandlePage:
    """Candles of consecutive periods, those without a report left out (`protocol.candles`)."""

    number: Whole
    candles: Annotated[tuple[Candle, ...], AtMost(CANDLES_PER_PAGE)]
