"""A replay token runs the same network again, to the same event."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import LocalError
from protocol.tensor import Tensor
from testnet.faults import Crash, FaultPlan
from testnet.sim import get_latest, simulate
from testnet.sim_replay import replay, run_token
from testnet.sim_token import PREFIX, Replay, Step, format_token, parse_token


def test_a_token_replays_a_run_to_its_last_event(capsys):
    network = simulate(3, liars=1, faults=FaultPlan(loss_bp=500, crashes=(Crash("inference-1", 1_200, 2_000),)))
    asked = [network.request("digits") for _ in range(5)]
    network.run_until(lambda: asked[2].is_done)
    network.crash("verifier-0")
    network.run_for(1_000)
    network.start("verifier-0")
    network.stop("oracle-0")
    network.request(input=(Tensor("uint8", (1, 64), bytes(64)),))
    network.run_until(lambda: all(each.is_done for each in asked))

    again = replay(network.token)

    assert again.is_same
    assert again.network.trace == network.trace
    assert again.network.events == network.events
    assert run_token(network.token) == 0
    assert "is_same: True" in capsys.readouterr().out


def test_a_network_shows_its_token_where_an_assertion_fails():
    network = simulate(9, roles={"validator": 1})

    assert f"rolemesh sim --replay {network.token}" in repr(network)
    assert get_latest() is network


def test_a_token_of_options_and_tensors_comes_back_whole():
    made = Replay(
        seed=1,
        roles={"inference": 2},
        liars=1,
        faults=FaultPlan(loss_bp=3),
        options={"inference": {"lie_bp": 10_000, "models": (b"\x01\x02",)}},
        steps=(Step("request", 5, 7, ("digits", (Tensor("uint8", (2,), b"ab"),), "client-0", False, 1, 2)),),
        events_run=9,
        trace="ab",
    )

    parsed = parse_token(format_token(made))

    assert parsed.steps == made.steps
    assert parsed.options == made.options
    assert (parsed.seed, parsed.roles, parsed.faults, parsed.trace) == (1, {"inference": 2}, made.faults, "ab")


@given(st.text() | st.binary().map(lambda data: PREFIX + data.hex()))
def test_nothing_but_a_local_error_leaves_the_reader_of_tokens(text):
    with pytest.raises(LocalError):
        parse_token(text)


def test_a_broken_token_is_refused_with_a_reason(capsys):
    token = simulate(9, roles={"validator": 1}).token

    assert run_token(token[:-9]) == 2
    assert "not a replay token" in capsys.readouterr().err
