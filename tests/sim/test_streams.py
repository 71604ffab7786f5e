"""Streamed generation in a whole network: what comes, in which order, and what happens when it breaks off."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from protocol.generation import read_form, read_inputs, read_outputs
from protocol.jobs import Mode
from protocol.messages import Piece, Refused
from roles.attempts import CallOff
from roles.client_role import ClientRole
from roles.inference import Inference
from roles.role import Effect, Event, Reply, Requested, Send
from testnet.sim import Asked, Network, simulate
from tests.support.generations import ENTRY, ask, decode

FEE_MAX = 10**9
ROLES = {"validator": 1, "inference": 2, "verifier": 2, "storage": 1, "client": 1}


def start(seed: int = 1, options: Mapping[str, Mapping[str, Any]] | None = None) -> Network:
    return simulate(seed, roles=ROLES, options={"network": {"models": ["digits", "pydoc"]}, **(options or {})})


def stream(network: Network, mode: Mode = Mode.BATCH, max_tokens: int = 120, **settings: Any) -> Asked:
    return network.request("pydoc", ask(max_tokens=max_tokens), mode=mode, streams=True, fee_max=FEE_MAX, **settings)


def read(asked: Asked) -> tuple[int, ...]:
    form = read_form(asked.model.inputs, asked.model.outputs)
    assert form is not None
    assert asked.outcome is not None
    return read_outputs(asked.outcome.outputs, read_inputs(asked.inputs, form), form)[0]


def wait(network: Network, asked: Asked, tokens: int = 10**6) -> Asked:
    assert network.run_until(lambda: asked.is_done or len(asked.told) > tokens)
    return asked


def find(network: Network, name: str) -> list[Mapping[str, Any]]:
    return [event for event in network.events if event["name"] == name]


@pytest.mark.parametrize("mode", list(Mode))
def test_tokens_come_before_the_answer_and_are_those_of_the_answer(mode: Mode) -> None:
    network = start()
    asked = stream(network, mode)

    assert network.run_until(lambda: len(asked.told) > 0)
    assert not asked.is_done
    assert network.run_until(lambda: asked.is_done)

    assert asked.is_answered, asked.outcome
    assert tuple(asked.told) == read(asked)
    assert decode(asked.told) == ENTRY["sample"]["text"][:120]
    assert asked.outcome is not None
    assert asked.outcome.fee == 124 * 1_000_000
    assert network.run_until(
        lambda: any(channel.settled_seq for channel in network.ledger.channels.values()) or bool(network.ledger.batches)
    )
    assert not network.find_violations()


class Muddling(Inference):
    """Streams something else than it signs, from its config's `at`-th piece on."""

    def handle(self, event: Event, now_ms: int) -> list[Effect]:
        return [self._muddle(effect) for effect in super().handle(event, now_ms)]

    def _muddle(self, effect: Effect) -> Effect:
        if not isinstance(effect, Send) or not isinstance(effect.message, Piece) or effect.message.index != 2:
            return effect
        piece = effect.message
        changed = {
            "order": {"index": 3},
            "hash": {"chain": bytes(32)},
            "tokens": {"tokens": (*piece.tokens[:-1], 95)},
            "steps": {"steps": piece.steps[:-32]},
            "vocabulary": {"tokens": (*piece.tokens[:-1], 96)},
        }[str(self.context.config["muddles"])]
        return replace(effect, message=replace(piece, **changed))


@pytest.mark.parametrize("how", ["order", "hash", "tokens", "steps", "vocabulary"])
def test_a_piece_no_honest_worker_sends_has_the_next_one_make_the_same_text(how: str) -> None:
    muddling = {"class": "tests.sim.test_streams:Muddling", "muddles": how}
    network = start(options={"inference-0": muddling, "inference-1": {}})
    asked = wait(network, stream(network))
    while not find(network, "stream.broken"):  # the draw gave it to the honest one
        asked = wait(network, stream(network))

    assert find(network, "stream.broken")
    assert asked.is_answered
    assert tuple(asked.told) == read(asked)
    assert decode(asked.told) == ENTRY["sample"]["text"][:120]
    assert any("piece" in event["reason"] or "token" in event["reason"] for event in find(network, "peer.penalised"))
    assert len({event["worker"] for event in find(network, "request.sent")}) == 2


def test_a_stream_that_is_cut_ends_the_request_for_who_wants_it_so_and_says_how_much_is_good() -> None:
    muddling = {"class": "tests.sim.test_streams:Muddling", "muddles": "hash"}
    network = start(options={"inference-0": muddling, "inference-1": muddling})
    asked = stream(network, ends_when_cut=True)

    assert network.run_until(lambda: asked.is_done)

    assert asked.outcome is not None
    assert asked.outcome.code == "cut"
    assert f"{len(asked.told)} tokens before it are good" in asked.outcome.reason
    assert decode(asked.told) == ENTRY["sample"]["text"][: len(asked.told)]


def test_a_worker_killed_in_mid_stream_has_the_next_one_go_on_where_it_stopped() -> None:
    network = start()
    asked = stream(network, max_tokens=200)
    assert network.run_until(lambda: len(asked.told) > 50)
    streaming = {event["worker"] for event in find(network, "request.sent")}
    (victim,) = (name for name, node in network.nodes.items() if node.keys.node.public.hex() in streaming)

    network.crash(victim)

    assert network.run_until(lambda: asked.is_done)
    assert asked.is_answered
    assert tuple(asked.told) == read(asked)
    assert find(network, "stream.broken")


def test_a_stream_called_off_frees_its_worker_and_is_not_paid() -> None:
    network = start()
    asked = stream(network, max_tokens=500)
    assert network.run_until(lambda: len(asked.told) > 20)
    called_ms = network.elapsed_ms

    network.nodes["client-0"].command(CallOff(asked.token))

    assert network.run_until(lambda: bool(find(network, "request.refused")))
    assert network.elapsed_ms - called_ms < 300
    assert len(asked.told) < 400
    network.run_for(20_000)
    assert all(not channel.paid for channel in network.ledger.channels.values())


@pytest.mark.full
def test_who_calls_streams_off_again_and_again_is_no_longer_streamed_to_but_still_served() -> None:
    network = start()
    for _ in range(8):
        asked = stream(network, max_tokens=500)
        if wait(network, asked, tokens=20).is_done:
            break
        network.nodes["client-0"].command(CallOff(asked.token))
        network.run_for(3_000)

    assert asked.is_answered
    pieces = [token for outcome in network.deliveries for token in (getattr(outcome[1], "tokens", ()),) if token]
    assert len(pieces[-1]) == 500


def test_a_client_that_takes_no_pieces_gets_its_result_all_the_same() -> None:
    network = start(options={"client": {"class": "tests.sim.test_streams:Deaf"}})
    asked = stream(network)

    assert network.run_until(lambda: asked.is_done)

    assert asked.is_answered
    assert tuple(asked.told) == read(asked)
    assert [event["tokens"] for event in find(network, "stream.cut")]


class Deaf(ClientRole):
    """Refuses every piece."""

    def handle(self, event: Event, now_ms: int) -> list[Effect]:
        if isinstance(event, Requested) and isinstance(event.message, Piece):
            return [Reply(event.token, Refused("no"))]
        return super().handle(event, now_ms)
