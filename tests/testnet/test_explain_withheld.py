"""What `rolemesh explain` says of an output that was asked for in public."""

import pytest

from protocol.ledger.genesis import build_state
from testnet.explain import Case, History, Try, explain
from tests.protocol.ledger.test_batches import ALL, SEVERAL
from tests.protocol.ledger.test_withheld import challenge, pass_by, publish, to_window
from tests.support.jobs import PRICE
from tests.support.ledgers import Ledger


@pytest.mark.parametrize(("ending", "words"), [("", "has until"), ("shown", "published it"), ("silent", "its money")])
def test_it_says_what_became_of_a_withheld_output(ending: str, words: str) -> None:
    ledger = Ledger(SEVERAL, ALL)
    batch = to_window(ledger, [PRICE, PRICE])
    ledger.do(ledger.account("client-0"), challenge(batch))
    if ending == "shown":
        ledger.do(batch.worker, publish(batch, 0))
    if ending == "silent":
        pass_by(ledger)
    history = History(Case(batch.items[0].request, (Try(b"", batch.items[0].voucher),)))
    before = build_state(ledger.foundation.genesis)
    for block, _, after in ledger.blocks:
        history.on_block(before, block, after)
        before = after

    found = [item for item in explain(history.case, ledger.state, history, {}) if item.level == "withheld"]

    (finding,) = found
    assert finding.is_shown
    assert "said the output was withheld" in finding.text
    assert words in finding.text
