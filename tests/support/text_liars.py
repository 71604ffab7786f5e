"""A worker that lies about text in one of several ways, and stands by it in a dispute as far as it can."""

import struct
from dataclasses import replace

from protocol.generation import make_outputs, read_form
from protocol.ledger.disputes import NameOperator
from protocol.ledger.step_disputes import NameStep
from protocol.proofs.steps import ASSEMBLY, Generated, compute_made, read_generated
from protocol.proofs.trace import TracedRun, pack_trace, unpack_trace
from protocol.tensor import DIGEST_BYTES, Tensor
from roles.inference import Inference
from roles.role import Computed, Context, Effect, Event, Inspected, Submit
from roles.step_challenger import STEP_CHALLENGE, StepChallenger
from roles.verifier import Verifier
from testnet.sim_inputs import get_engine
from tests.support.generations import DIGEST, ask


class TextLiar(Inference):
    """`lies` in its config: `token`, `step`, `truncate`, `seed` or `temperature`."""

    def handle(self, event: Event, now_ms: int) -> list[Effect]:
        if isinstance(event, Computed) and event.outputs is not None:
            said = falsify(event.outputs, str(self.context.config["lies"]))
            return super().handle(replace(event, outputs=said), now_ms)
        if isinstance(event, Inspected) and isinstance(event.answer, TracedRun):
            return super().handle(replace(event, answer=self._stand_by(event.token, event.answer)), now_ms)
        return super().handle(event, now_ms)

    def _check_committee(self, request, now_ms) -> None:
        """It takes whatever comes: dissent is its trade."""

    def _stand_by(self, token: str, run: TracedRun) -> TracedRun:
        """Every part of the step gives the truth, and the step what was said of it."""
        asked = self._defender._asks[token]
        model = self._ledger.models[asked.job.item.request.model]
        form = read_form(model.inputs, model.outputs)
        assert form is not None
        said = read_generated(Generated(asked.job.item.request.inputs, asked.job.outputs), form)
        made = said.get_made(asked.step)
        ends = (said.steps[asked.step],) if made is None else (said.steps[asked.step], compute_made(made))
        trace = unpack_trace(run.trace)
        return replace(run, trace=pack_trace((*trace[: -len(ends)], *ends)))


def falsify(outputs: tuple[Tensor, ...], how: str) -> tuple[Tensor, ...]:
    """What it says instead of the truth about `ask("The ", 12)`."""
    tokens, steps = outputs
    numbers = list(struct.unpack(f"<{tokens.shape[0]}i", tokens.data))
    if how == "token":
        numbers[5] = (numbers[5] + 1) % 96
        return make_outputs(numbers, steps.data)
    if how == "step":
        data = bytearray(steps.data)
        data[DIGEST_BYTES * 9] ^= 1
        return make_outputs(numbers, bytes(data))
    if how == "truncate":
        return make_outputs(numbers[:-1], steps.data[:-DIGEST_BYTES])
    settings = {"seed": 4, "temperature": 900} if how == "seed" else {"temperature": 300, "seed": 3}
    return get_engine().compute(DIGEST, ask("The ", 12, **settings))[0]


class TextFramer(Verifier):
    """Says that an honest worker's last step is wrong, because its inputs were put together wrongly."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._challenger._steps = _FramingChallenger(context.account.public)

    def handle(self, event: Event, now_ms: int) -> list[Effect]:
        if isinstance(event, Computed) and event.outputs is not None:
            event = replace(event, outputs=falsify(event.outputs, "step"))
        return super().handle(event, now_ms)


class _FramingChallenger(StepChallenger):
    def _name_step(self, claim_id, key, dispute, forced, state) -> list[Effect]:
        step = len(forced.steps) // DIGEST_BYTES - 1
        return [Submit(NameStep(key, step), STEP_CHALLENGE + claim_id.hex())]

    def _name_operator(self, claim_id, key, dispute, run) -> list[Effect]:
        return [Submit(NameOperator(key, ASSEMBLY), STEP_CHALLENGE + claim_id.hex())]
