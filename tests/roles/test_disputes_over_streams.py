"""A fault at every operator of every model, passed on through the rest of it: the dispute finds that operator.

Between two hosts on loopback: the challenger asks for trace and exhibit down real streams. What it then says, and what
the worker and the validators say, a ledger takes, down to the slash.
"""

from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import trio

from p2p.libp2p_net import NetOptions, open_libp2p_net
from p2p.net import Answered, Asked, Unanswered
from protocol.jobs import Receipt, compute_claim_id
from protocol.keys import PrivateKey
from protocol.ledger.disputes import NameOperator, OpenDispute
from protocol.proofs.trace import Judgement, RunOperator, TracedRun, TraceModel, pack_trace, unpack_trace
from protocol.signing import sign
from protocol.tensor import compute_tensors_digest
from protocol.topics import protocol_name
from roles.challenge import CHALLENGE, Challenge
from roles.challenger import Challenger
from roles.defender import Defender
from roles.engine.inline import InlineEngine
from roles.mailbox import Mailbox
from roles.referee import Referee
from roles.role import Effect, Fetch, Inspect, Record, Reply, Request, Submit
from roles.workbook import Job
from testnet.genesis import load_models
from tests.support.disputes import FOUR
from tests.support.graphs import Lie, plant
from tests.support.jobs import find_model, make_receipt, make_request, pay
from tests.support.ledgers import Ledger
from tests.support.models import MODELS, draw_inputs

WAIT_S_MAX = 120.0
PROTOCOL = "trace"


class End:
    """One host with the envelopes of its node."""

    def __init__(self, net: Any, key: PrivateKey, chain: bytes, events: trio.MemoryReceiveChannel[Any]) -> None:
        self.net = net
        self.mailbox = Mailbox(key, chain, boot=1)
        self.protocol = protocol_name(chain, PROTOCOL)
        self.events = events

    def open(self, peer: bytes, data: bytes) -> Any:
        return self.mailbox.open_from(peer, PROTOCOL, data)

    def ask(self, request: Request) -> None:
        self.net.request(request.peer, self.protocol, self.mailbox.seal(request.message, 0), request.token, 20_000)

    def reply(self, reply: Reply) -> None:
        self.net.reply(reply.token, self.mailbox.seal(reply.message, 0))


@asynccontextmanager
async def open_end(key: PrivateKey, chain: bytes, number: int) -> Any:
    sender, receiver = trio.open_memory_channel[Any](1_000)
    async with open_libp2p_net(key.seed, f"127.0.9.{number}", 0, sender.send_nowait, NetOptions(seed=number)) as net:
        yield End(net, key, chain, receiver)


class Case:
    """A job whose worker got one operator wrong, and an honest verifier of it."""

    def __init__(self, name: str, fault: int) -> None:
        self.ledger = Ledger(FOUR, models=load_models([name, "digits"]))
        self.fault = fault
        state, data = self.ledger.state, MODELS[name].read_bytes()
        self.engine = InlineEngine(lambda _: data, "disable")
        self.inputs = draw_inputs(data, 2, seed=fault)
        self.model = find_model(state, name).digest
        outputs, profile = self.engine.compute(self.model, self.inputs)
        self.lie: Lie = plant(data, self.inputs, fault)
        self.worker = self.ledger.node("inference-0")
        channel = self.ledger.open_channel()
        request = make_request(self.ledger.state, self.ledger.foundation, 1, model=self.model, inputs=self.inputs)
        item = pay(request, self.ledger.foundation, channel)
        plain = make_receipt(item, self.worker, self.lie.outputs)
        claim = sign(replace(plain.claim, profile=profile), self.worker)
        self.receipt: Receipt = replace(plain, claim=claim)
        self.job = Job(item, receipt=self.receipt, claim_id=compute_claim_id(claim))
        self.defender = Defender(self.ledger.account("inference-0").public, lambda *_: self.job)
        self.challenger = Challenger(self.ledger.account("verifier-0").public)
        found = compute_tensors_digest(outputs)
        self.challenge = Challenge(claim, (self.receipt,), (), self.receipt.output_digest, self.inputs, found, profile)
        self.told: list[Effect] = []

    def lie_about(self, question: TraceModel) -> TracedRun:
        """The worker's engine, so to say: it stands by what it did."""
        exhibit = self.lie.show(question.operator)
        return TracedRun(pack_trace(self.lie.trace), exhibit, self.challenge.profile)

    # On streams

    async def defend(self, end: End) -> None:
        async for event in end.events:
            if not isinstance(event, Asked):
                continue
            question = end.open(event.peer, event.data)
            effects = self.defender.on_requested(question, event.token, self.ledger.state, 0)
            for inspect in (effect for effect in effects if isinstance(effect, Inspect)):
                effects = self.defender.on_inspected(inspect.token, self.lie_about(inspect.question), "", 0)
            for reply in effects:
                assert isinstance(reply, Reply)
                end.reply(reply)

    async def accuse(self, end: End) -> None:
        """Until there is a dispute to be opened."""
        token = CHALLENGE + compute_claim_id(self.challenge.claim).hex()
        self.do(end, self.challenger.begin(self.challenge, self.ledger.state, 0))
        async for event in end.events:
            if isinstance(event, Answered):
                message = end.open(self.worker.public, event.data)
                self.do(end, self.challenger.on_answer(token, message, self.ledger.state, 0))
            assert not isinstance(event, Unanswered), event
            if any(isinstance(effect, Submit) for effect in self.told):
                return

    def do(self, end: End | None, effects: list[Effect]) -> None:
        """Carry out what a challenger wants, with an honest engine."""
        for effect in effects:
            self.told.append(effect)
            if isinstance(effect, Inspect):
                answer = self.engine.inspect(effect.model, effect.question)
                self.do(end, self.challenger.on_inspected(effect.token, answer, "", self.ledger.state, 0))
            elif isinstance(effect, Request):
                assert end is not None
                end.ask(effect)

    # On the ledger

    def settle(self) -> None:
        """The rest of the dispute, word by word as the roles say it."""
        ledger, worker, challenger = self.ledger, *map(self.ledger.account, ("inference-0", "verifier-0"))
        order = next(effect.item for effect in self.told if isinstance(effect, Submit))
        assert isinstance(order, OpenDispute)
        ledger.do(challenger, order)
        self.challenger.on_submitted(CHALLENGE + compute_claim_id(self.challenge.claim).hex(), "", ledger.state, 0)
        ledger.do(worker, self.say())
        named = next(effect.item for effect in self.challenger.look(ledger.state, 0) if isinstance(effect, Submit))
        assert isinstance(named, NameOperator)
        assert named.operator == self.fault
        ledger.do(challenger, named)
        ledger.do(worker, self.say())
        for number in range(3):
            validator = ledger.account(f"validator-{number}")
            ledger.do(validator, self.judge(Referee(validator.public)))

    def say(self) -> Any:
        """What the worker puts on the ledger next."""
        (inspect,) = self.defender.look(self.ledger.state, 0)
        assert isinstance(inspect, Inspect)
        effects = self.defender.on_inspected(inspect.token, self.lie_about(inspect.question), "", 0)
        return next(effect.item for effect in effects if isinstance(effect, Submit))

    def judge(self, referee: Referee) -> Any:
        state = self.ledger.state
        (fetch,) = referee.look(state, 0)
        assert isinstance(fetch, Fetch)
        referee.on_fetched(fetch.source, b"model", "", 0)
        (inspect,) = referee.look(state, 0)
        assert isinstance(inspect, Inspect)
        assert isinstance(inspect.question, RunOperator)
        answer = self.engine.inspect(inspect.model, inspect.question)
        said = referee.on_inspected(inspect.token, answer, "", state, 0)
        body = next(effect.item for effect in said if isinstance(effect, Submit))
        assert body.judgement == Judgement.WRONG
        return body


async def accuse_all(name: str) -> list[Case]:
    """A challenge over streams for a fault at each operator of a model, the outputs being the last."""
    first = Case(name, 1)
    chain, keys = first.ledger.state.chain, (first.worker, first.ledger.node("verifier-0"))
    cases = [first, *(Case(name, fault) for fault in range(2, first.lie.graph.last + 1))]
    with trio.fail_after(WAIT_S_MAX):
        async with open_end(keys[0], chain, 1) as worker, open_end(keys[1], chain, 2) as verifier:
            worker.net.serve(worker.protocol)
            verifier.net.learn(keys[0].public, worker.net.addresses)
            for case in cases:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(case.defend, worker)
                    await case.accuse(verifier)
                    nursery.cancel_scope.cancel()
    return cases


# A text is disputed by its steps first: tests/roles/engine/test_steps.py goes through all parts of one.
@pytest.mark.parametrize("name", [name for name in MODELS if name != "pydoc"])
def test_a_fault_at_any_operator_is_found_over_streams_and_slashed_by_the_ledger(name: str) -> None:
    cases = trio.run(accuse_all, name)

    for case in cases:
        (found,) = (
            item.fields["operator"] for item in case.told if isinstance(item, Record) and item.name == "operator.found"
        )
        assert found == case.fault
        case.settle()
        assert compute_claim_id(case.challenge.claim) in case.ledger.state.wrong
        assert not case.ledger.state.disputes
    honest = unpack_trace(cases[0].engine.inspect(cases[0].model, TraceModel(cases[0].inputs, 0)).trace)  # type: ignore[union-attr]
    assert len(cases) == len(honest) - 1
