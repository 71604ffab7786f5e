"""Feeds on a ledger of their own: registered, joined, observed and reported by hand."""

from collections.abc import Mapping
from dataclasses import replace

from protocol.keys import PrivateKey
from protocol.ledger.feeds import ObserveFeed, RegisterFeed
from protocol.ledger.transactions import ReportOracle, SignedObservation
from protocol.signing import sign
from tests.support.ledgers import Ledger

HEARTBEAT_MS = 1_000
TERMS = RegisterFeed(
    name="btc-usd",
    source="http-json",
    address="http://127.0.0.1/price",
    path="value",
    decimals=2,
    heartbeat_ms=HEARTBEAT_MS,
    deviation_bp=100,
    outlier_bp=1_000,
    jump_bp=5_000,
    observers_min=1,
    age_ms_max=3_000,
    allowed=(),
)


def observe(
    ledger: Ledger, name: str, value: int, feed: str = TERMS.name, sequence: int = 0, **changes: int
) -> SignedObservation:
    """What a node signs for the round of the ledger's next moment."""
    return sign_observation(ledger, ledger.node(name), value, feed, sequence, **changes)


def sign_observation(
    ledger: Ledger, key: PrivateKey, value: int, feed: str, sequence: int = 0, **changes: int
) -> SignedObservation:
    now_ms = ledger.state.time_ms
    round_number = now_ms // ledger.state.feed_terms[feed].heartbeat_ms if feed in ledger.state.feed_terms else 0
    unsigned = SignedObservation(feed, round_number, sequence, value, now_ms, key.public, bytes(64))
    return sign(replace(unsigned, **changes), key)


def report(ledger: Ledger, values: Mapping[str, int], feed: str = TERMS.name, sequence: int = 0) -> ReportOracle:
    """The report of what these nodes have seen, by node name."""
    return ReportOracle.of([observe(ledger, name, value, feed, sequence) for name, value in values.items()])


def found_feed(oracles: int = 4, **changes: object) -> Ledger:
    """A ledger with TERMS registered by client-0 and observed by every oracle, at the beginning of a round."""
    ledger = Ledger({"validator": 1, "oracle": oracles, "client": 1, "inference": 1})
    terms = replace(TERMS, **changes)
    ledger.do(ledger.account("client-0"), terms)
    for number in range(oracles):
        ledger.do(ledger.account(f"oracle-{number}"), ObserveFeed(terms.name, 1))
    begin_round(ledger, terms.heartbeat_ms)
    return ledger


def begin_round(ledger: Ledger, heartbeat_ms: int = HEARTBEAT_MS) -> None:
    """An empty block at the first moment of the next round."""
    ledger.block(after_ms=heartbeat_ms - ledger.state.time_ms % heartbeat_ms)
