"""What the ledger remembers of workflows: their ticks, and the runs that are open."""

from typing import Annotated

from protocol.fast_dataclass import fast_dataclass
from protocol.jobs import VERIFIERS_MAX, InferenceRequest, Receipt
from protocol.ledger.records import MaybeKey
from protocol.queries import InputQueries
from protocol.tensor import TENSORS_MAX, Tensor
from protocol.types import AtMost, Digest, Grains, Name, PublicKey, Signed, TimeMs, Whole


@fast_dataclass(frozen=True)
class Tick:
    """What became of a workflow's ticks `first` to `last` (`workflow.Outcome`). `job` and `value` are of one fired."""

    first: Whole
    last: Whole
    outcome: Name
    value: Annotated[tuple[Signed, ...], AtMost(1)] = ()
    job: MaybeKey = b""


@fast_dataclass(frozen=True)
class Workflow:
    """Scheduled work. Tick t is due at t · every_ms; `next_tick` is 0 when there is none any more.

    `fired` and `missed` count ticks, `done` those whose result the workflow's feed has taken; `past` holds the last.
    """

    name: Name
    owner: PublicKey
    model: Digest
    inputs: InputQueries
    every_ms: Whole
    end_ms: TimeMs
    fee: Grains
    verifiers: Whole
    timeout_ms: Whole
    budget: Grains
    next_tick: Whole
    fired: Whole = 0
    missed: Whole = 0
    done: Whole = 0
    ended_ms: TimeMs = 0
    past: Annotated[tuple[Tick, ...], AtMost(32)] = ()


@fast_dataclass(frozen=True)
class Contest:
    """A run that some of its verifiers do not find what its worker says of: both sides by their accounts."""

    receipt: Receipt
    outputs: Annotated[tuple[Tensor, ...], AtMost(TENSORS_MAX)]
    agreeing: Annotated[tuple[PublicKey, ...], AtMost(VERIFIERS_MAX)]
    dissenting: Annotated[tuple[PublicKey, ...], AtMost(VERIFIERS_MAX)]


@fast_dataclass(frozen=True)
class Run:
    """What a tick asks for, while its job is open. `workflow` is the key of its workflow."""

    workflow: Digest
    tick: Whole
    request: InferenceRequest
    contest: Annotated[tuple[Contest, ...], AtMost(1)] = ()
