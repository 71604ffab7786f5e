"""What blocks come to, as `python -m testnet.facts` sums them up."""

from protocol.ledger.genesis import build_state
from testnet.facts import Facts
from tests.support.jobs import PRICE
from tests.support.ledgers import Ledger
from tests.support.workflows import contest, find_worker, found, list_runs, settle, start


def sum_up(ledger: Ledger) -> Facts:
    facts, before = Facts(), build_state(ledger.foundation.genesis)
    for block, _, after in ledger.blocks:
        facts.take(before, block, after)
        before = after
    return facts


def test_the_fee_of_a_run_is_counted_whether_its_verifiers_agreed_or_not() -> None:
    for make in (settle, contest):
        ledger = found()
        start(ledger, ticks=1)
        [(job, _)] = list_runs(ledger)
        ledger.do(ledger.account(find_worker(ledger, job)), make(ledger, job), after_ms=1)
        while ledger.state.runs:
            ledger.block(after_ms=5_000)
        facts = sum_up(ledger)
        assert facts.fees == PRICE
        assert facts.workers + facts.verifiers + facts.treasury + facts.burn == PRICE
