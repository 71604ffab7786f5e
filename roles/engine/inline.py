"""Run models in this very process, one after the other: for the simulator, where there is nothing to wait for."""

from collections import OrderedDict
from collections.abc import Callable

from protocol.generation import is_generation, read_form
from protocol.proofs.steps import AnyAnswer, AnyQuestion, ForceSteps, RunPart, TraceStep
from protocol.proofs.trace import RunOperator, TraceModel
from protocol.tensor import Tensor
from roles.engine.generate import OPTIMISE, generate
from roles.engine.session import Session, load_session, run_session
from roles.engine.stepped import Stepped
from roles.engine.steps import force_steps, run_part, trace_step
from roles.engine.trace import load_tracer, run_operator, trace

SESSIONS_MAX = 16


class InlineEngine:
    """For models one trusts. Sessions are kept, the least recently used is dropped beyond SESSIONS_MAX."""

    def __init__(self, load_blob: Callable[[bytes], bytes], optimise: str = "all") -> None:
        self._load_blob = load_blob
        self._optimise = optimise
        self._sessions: OrderedDict[tuple[bytes, str], Session] = OrderedDict()

    def compute(
        self, model: bytes, inputs: tuple[Tensor, ...], say: Callable[[Stepped], None] | None = None
    ) -> tuple[tuple[Tensor, ...], str]:
        """Outputs and profile of one run of the model with this digest. Raises what `session` and `load_blob` raise.

        `say` hears of the steps of a generation.
        """
        session = self._load(model, self._optimise)
        if is_generation(inputs) and read_form(session.inputs, session.outputs) is not None:
            return generate(self._load(model, OPTIMISE), inputs, say)
        return run_session(session, inputs)

    def inspect(self, model: bytes, question: AnyQuestion) -> AnyAnswer:
        """As `Pool.inspect`. Nothing of it is kept."""
        data = self._load_blob(model)
        match question:
            case TraceModel(inputs, operator):
                return trace(load_tracer(data, load_session(data)), inputs, operator)
            case RunOperator(operator, exhibit):
                return run_operator(data, operator, exhibit)
            case ForceSteps(generated):
                return force_steps(self._load(model, OPTIMISE), generated)
            case TraceStep():
                session = self._load(model, OPTIMISE)
                return trace_step(session, load_tracer(data, session), question)
            case RunPart():
                session = self._load(model, OPTIMISE)
                return run_part(session, load_tracer(data, session), question)

    def _load(self, model: bytes, optimise: str) -> Session:
        key = model, optimise
        if key not in self._sessions:
            self._sessions[key] = load_session(self._load_blob(model), optimise)
            if len(self._sessions) > SESSIONS_MAX:
                self._sessions.popitem(last=False)
        self._sessions.move_to_end(key)
        return self._sessions[key]
