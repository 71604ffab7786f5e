"""Roles that cheat on purpose, for tests and demonstrations.

Lies are well-formed, plausible and correctly signed: type and shape are right, the numbers are real ones, only they are
in the wrong places. Each one is recorded as `lie.told`, so a run can count whether all were caught.
"""

import hashlib
from dataclasses import replace

from protocol.ledger.feed_records import FeedTerms
from protocol.ledger.transactions import SignedObservation
from protocol.messages import ObservationMessage
from protocol.proofs.trace import DIGEST_SIZE, TracedRun
from protocol.signing import sign
from protocol.tensor import ITEM_SIZES, Tensor, compute_tensors_digest
from protocol.types import BP, INT_MAX
from roles.inference import Inference
from roles.oracle import Oracle
from roles.role import Computed, Context, Effect, Event, Inspected, Publish, Record
from roles.verifier import Verifier

LIE_BP = 3_000


class LyingInference(Inference):
    """An inference node that returns wrong outputs on `config["lie_bp"]` basis points of its jobs.

    Which jobs follows from its key and the job alone, so a repeated or restarted job gets the same lie again.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._lie_bp = int(context.config.get("lie_bp", LIE_BP))
        self._lies: dict[bytes, bytes] = {}  # digest of the true outputs -> of what was said instead
        self._committees.is_choosy = False  # dissent is its trade

    def handle(self, event: Event, now_ms: int) -> list[Effect]:
        if isinstance(event, Inspected) and isinstance(event.answer, TracedRun):
            return super().handle(replace(event, answer=self._stand_by(event.answer)), now_ms)
        if not isinstance(event, Computed) or event.outputs is None or not self.lies_about(event.token):
            return super().handle(event, now_ms)
        said = self.falsify(event.outputs)
        self._lies[compute_tensors_digest(event.outputs)] = compute_tensors_digest(said)
        effects = super().handle(replace(event, outputs=said), now_ms)
        if said == event.outputs:  # the truth, by chance
            return effects
        made = [effect for effect in effects if isinstance(effect, Record) and effect.name == "claim.made"]
        # Counted before it is kept: a liar killed in between has told one lie too many in its log, never one too few.
        return [*(Record("lie.told", claim.fields) for claim in made), *effects]

    def lies_about(self, token: str) -> bool:
        return would_lie(self.context.signer.public, token, self._lie_bp)

    def falsify(self, outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """What it says instead."""
        return distort(outputs)

    def _stand_by(self, run: TracedRun) -> TracedRun:
        """In a dispute every operator is said to give the truth, and the model something else."""
        truth = run.trace[-DIGEST_SIZE:]
        return replace(run, trace=run.trace[:-DIGEST_SIZE] + self._lies.get(truth, truth))


class LyingOracle(Oracle):
    """An oracle that signs whatever it likes instead of what it has read."""

    def _observe(self, terms: FeedTerms, value: int, now_ms: int) -> list[Effect]:
        lie = self.context.random.choice((0, value * 2 + 1, value // 3, self.context.random.randrange(INT_MAX)))
        return [Record("lie.told", {"feed": terms.name, "value": lie}), *super()._observe(terms, lie, now_ms)]


class EquivocatingOracle(Oracle):
    """An oracle that signs a second reading for every position."""

    def handle(self, event: Event, now_ms: int) -> list[Effect]:
        effects = super().handle(event, now_ms)
        said = [effect for effect in effects if isinstance(effect, Publish)]
        return [*effects, *map(self._say_otherwise, said)]

    def _say_otherwise(self, publish: Publish) -> Publish:
        item: SignedObservation = publish.message.observation
        other = sign(replace(item, value=item.value + 1), self.context.signer)
        return replace(publish, message=ObservationMessage(other))


def would_lie(worker: bytes, token: str, lie_bp: int) -> bool:
    """Whether a lying node of this key lies about a job."""
    digest = hashlib.sha256(b"rolemesh/lie/" + worker + token.encode()).digest()
    return int.from_bytes(digest[:8], "big") % BP < lie_bp


class BribedVerifier(Verifier):
    """A verifier that finds what a lying worker says, if it is bribed: whether it is follows from its key alone."""

    @property
    def is_bribed(self) -> bool:
        return self.context.signer.public[0] % 2 == 1

    def handle(self, event: Event, now_ms: int) -> list[Effect]:
        if isinstance(event, Computed) and event.outputs is not None and self.is_bribed:
            return super().handle(replace(event, outputs=distort(event.outputs)), now_ms)
        return super().handle(event, now_ms)


def distort(outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The same tensors with the numbers of each row moved on by one place, so that the largest is elsewhere.

    A row whose numbers are all alike gets its first bit flipped.

    >>> distort((Tensor("uint8", (1, 3), bytes([9, 1, 2])),))
    (Tensor(dtype='uint8', shape=(1, 3), data=b'\\x02\\t\\x01'),)
    """
    return tuple(_distort_tensor(tensor) for tensor in outputs)


def _distort_tensor(tensor: Tensor) -> Tensor:
    item_bytes = ITEM_SIZES[tensor.dtype]
    row_bytes = item_bytes * (tensor.shape[-1] if tensor.shape else 1)
    if not tensor.data:
        return tensor
    rows = (tensor.data[at : at + row_bytes] for at in range(0, len(tensor.data), row_bytes))
    return replace(tensor, data=b"".join(_distort_row(row, item_bytes) for row in rows))


def _distort_row(row: bytes, item_bytes: int) -> bytes:
    moved = row[-item_bytes:] + row[:-item_bytes]
    return moved if moved != row else bytes([row[0] ^ 1]) + row[1:]
