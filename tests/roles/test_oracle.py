"""An oracle reports what those who may observe have said, and what others say keeps no report from the ledger."""

import random

from protocol.keys import PrivateKey
from protocol.ledger.transactions import ReportOracle, SignedObservation
from protocol.messages import ObservationMessage
from protocol.signing import sign
from roles.oracle import Oracle
from roles.role import Context, Received, Started, Submit
from roles.rotation import plan_rotation
from tests.support.ledgers import Ledger

URL = {"url": "http://127.0.0.1/", "path": "price", "decimals": 2}


def observe(ledger: Ledger, feed: str, key: PrivateKey, value: int) -> SignedObservation:
    heartbeat_ms = ledger.state.params.oracle_heartbeat_ms
    now_ms = ledger.state.time_ms + heartbeat_ms
    unsigned = SignedObservation(feed, now_ms // heartbeat_ms, value, now_ms, key.public, bytes(64))
    return sign(unsigned, key)


def test_an_observation_by_a_former_key_keeps_no_report_from_the_ledger() -> None:
    ledger = Ledger({"validator": 1, "oracle": 4})
    feed = next(iter(ledger.state.feeds))
    former = ledger.node("oracle-3")
    account = ledger.account("oracle-3")
    ledger.do(account, plan_rotation(account.public, PrivateKey.from_seed(b"n" * 32), None, b""))
    ledger.block(after_ms=ledger.state.params.epoch_ms)
    role = Oracle(
        Context({"feeds": {feed: URL}}, ledger.node("oracle-0"), ledger.account("oracle-0"), random.Random(1))
    )
    role.handle(Started(ledger.state, {}), ledger.state.time_ms)
    keys = [former, *(ledger.node(f"oracle-{index}") for index in range(3))]
    effects = []
    for number, key in enumerate(keys):
        message = ObservationMessage(observe(ledger, feed, key, 100 + number))
        effects += role.handle(Received(key.public, message, f"oracle/{feed}"), ledger.state.time_ms)
    [report] = [effect.item for effect in effects if isinstance(effect, Submit)]
    assert isinstance(report, ReportOracle)
    assert former.public not in {item.observer for item in report.observations}
    heartbeat_ms = ledger.state.params.oracle_heartbeat_ms
    ledger.do(ledger.account("oracle-0"), report, after_ms=heartbeat_ms)
    assert ledger.state.feeds[feed].observers == len(report.observations)
