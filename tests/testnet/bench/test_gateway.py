"""`rolemesh bench gateway`: its caller, and a whole run that is too short to mean anything."""

import pytest
import trio

from testnet.bench.gateway import measure as bench
from testnet.bench.gateway.caller import JSON, run_caller
from testnet.bench.inference.network import NotReady
from tests.support.gateways import FakeAsker, serving


@pytest.mark.full
def test_a_request_that_is_not_answered_ends_the_benchmark_with_the_reason(tmp_path):
    async def main():
        async with serving(FakeAsker(), tmp_path) as served, run_caller(served.url, "digits", "none") as caller:
            with pytest.raises(NotReady, match=r"400 .*FP32"):
                await caller.call(JSON)

    trio.run(main)


@pytest.mark.full
def test_each_way_is_measured_beside_the_client(monkeypatch):
    monkeypatch.setattr(bench, "WARM_TURNS", 1)
    monkeypatch.setattr(bench, "TURNS", 3)
    told = []

    figures = bench.measure(told.append, False, frozenset())

    assert [figure.name for figure in figures] == list(bench.NAMES)
    assert all(figure.peer_value > 0 for figure in figures)
    assert "medians of 3 requests: client" in told[-1]
