"""What a worker process does about each frame, with the one model it holds."""

from protocol.proofs.steps import ForceSteps, RunPart, TraceStep
from protocol.proofs.trace import RunOperator, TraceModel
from roles.engine.frames import Begin, GoOn, Load, Loaded, Message, Ran, Run
from roles.engine.generate import Writer, load_plain
from roles.engine.session import Session, load_session, run_session
from roles.engine.steps import force_steps, run_part, trace_step
from roles.engine.trace import Tracer, load_tracer, run_operator, trace


class Desk:
    """Holds nothing until the first `Load`. A model is opened a second time, for tracing, when that is first asked.

    And once more, without optimisation, for its first generation.
    """

    def __init__(self) -> None:
        self._model = b""
        self._session: Session | None = None
        self._tracer: Tracer | None = None
        self._plain: Session | None = None  # without optimisation
        self._writer: Writer | None = None  # of the generation that was begun last

    def answer(self, message: Message) -> Message | None:
        """The answer to a frame; None for one out of turn. Raises EngineError."""
        if isinstance(message, Load):
            loaded = self._session = load_session(message.model, message.optimise)
            self._model, self._tracer, self._plain, self._writer = message.model, None, None, None
            return Loaded(loaded.inputs, loaded.outputs)
        session = self._session
        match message:
            case Run(inputs) if session is not None:
                return Ran(*run_session(session, inputs))
            case Begin(inputs) if session is not None:
                self._writer = Writer(self._load_plain(session), inputs)
                return self._writer.go_on()
            case GoOn() if self._writer is not None:
                return self._writer.go_on()
            case TraceModel(inputs, operator) if session is not None:
                return trace(self._load_tracer(session), inputs, operator)
            case RunOperator(operator, exhibit) if session is not None:
                return run_operator(self._model, operator, exhibit)
            case ForceSteps(generated) if session is not None:
                return force_steps(self._load_plain(session), generated)
            case TraceStep() if session is not None:
                return trace_step(self._load_plain(session), self._load_tracer(session), message)
            case RunPart() if session is not None:
                return run_part(self._load_plain(session), self._load_tracer(session), message)
        return None

    def _load_plain(self, session: Session) -> Session:
        self._plain = self._plain or load_plain(self._model, session)
        return self._plain

    def _load_tracer(self, session: Session) -> Tracer:
        self._tracer = self._tracer or load_tracer(self._model, session)
        return self._tracer
