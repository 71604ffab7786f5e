"""Every way to cheat that we know of, as roles: workers, verifiers and clients for `rolemesh bench cheat` and tests.

Each is the honest role with one thing done differently, so what it says is well-formed and signed. Workers that lie do
so on `config["lie_bp"]` basis points of their jobs, as `testnet.liars` has it.
"""

from array import array
from dataclasses import replace

from protocol.jobs import Attestation, Voucher
from protocol.ledger.checks import AttestLeaves, LeafAttestation
from protocol.ledger.contests import ContestRun
from protocol.ledger.demands import OpenClaim
from protocol.ledger.job_records import BatchPhase
from protocol.ledger.state import State
from protocol.ledger.transactions import CloseChannel, SettleIndividual
from protocol.ledger.withheld import PublishOutput
from protocol.messages import Attestations, Result
from protocol.proofs.trace import DIGEST_SIZE, OperatorRun, TracedRun, TraceModel
from protocol.signing import sign
from protocol.tensor import ITEM_SIZES, Tensor, compute_tensors_digest
from protocol.topics import PROOF_SHARD_BITS, proofs_topic
from protocol.types import BP
from roles.client_role import ClientRole
from roles.inference import Inference
from roles.leaf_checks import LEAF_TOKEN
from roles.purse import Purse
from roles.role import (
    Compute,
    Computed,
    Context,
    Deliver,
    Effect,
    Event,
    Inspect,
    Inspected,
    LedgerAdvanced,
    Publish,
    Received,
    Record,
    Reply,
    Send,
    SetTimer,
    Submit,
    TimerFired,
)
from roles.verifier import Verifier
from roles.workbook import compute_job_key
from testnet.liars import LyingInference, distort, would_lie

LATE_MS = 500  # after the deadline


# Workers


class Altering(LyingInference):
    """Runs the model and says something else."""


class Copying(LyingInference):
    """Runs nothing but the first job, and answers all others with that answer."""

    _first: tuple[Tensor, ...] = ()

    def falsify(self, outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        self._first = self._first or outputs
        return self._first


class Truncating(LyingInference):
    """Leaves the last number of each tensor out."""

    def falsify(self, outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(_truncate(tensor) for tensor in outputs)


class Substituting(LyingInference):
    """Runs another model of the ledger than the one that was asked for, and fits its answer to the types wanted."""

    def handle(self, event: Event, now_ms: int) -> list[Effect]:
        return [self._swap(effect) for effect in super().handle(event, now_ms)]

    def falsify(self, outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(_cast(tensor, "int32" if tensor.dtype == "float32" else "float32") for tensor in outputs)

    def _swap(self, effect: Effect) -> Effect:
        if not isinstance(effect, Compute) or not self.lies_about(effect.token):
            return effect
        wanted = self._ledger.models[effect.model]
        other = next(model for model in self._ledger.models.values() if model.exact != wanted.exact)
        inputs = tuple(_cast(tensor, spec.dtype) for tensor, spec in zip(effect.inputs, other.inputs, strict=True))
        return replace(effect, model=other.digest, inputs=inputs)


class Degrading(LyingInference):
    """Runs cheaper models in place of those that were asked for, by `config["cheap"]`: digests in hex.

    In a dispute it stands by what it has run.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        cheap = dict(context.config.get("cheap", {}))
        self._cheap = {bytes.fromhex(model): bytes.fromhex(other) for model, other in cheap.items()}
        self._ran: set[bytes] = set()  # digests of inputs

    def handle(self, event: Event, now_ms: int) -> list[Effect]:
        effects = [self._swap(effect) for effect in Inference.handle(self, event, now_ms)]
        if not isinstance(event, Computed) or event.outputs is None or not self.lies_about(event.token):
            return effects
        made = [effect for effect in effects if isinstance(effect, Record) and effect.name == "claim.made"]
        return [*(Record("lie.told", claim.fields) for claim in made), *effects]

    def _swap(self, effect: Effect) -> Effect:
        if isinstance(effect, Compute) and self.lies_about(effect.token):
            self._ran.add(compute_tensors_digest(effect.inputs))
            return replace(effect, model=self._cheap[effect.model])
        if not isinstance(effect, Inspect) or not isinstance(effect.question, TraceModel):
            return effect
        was_cheap = compute_tensors_digest(effect.question.inputs) in self._ran
        return replace(effect, model=self._cheap[effect.model]) if was_cheap else effect


class Late(Inference):
    """Answers when the request is over, and claims its pay all the same."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._held: dict[str, Computed] = {}

    def handle(self, event: Event, now_ms: int) -> list[Effect]:
        if isinstance(event, Computed) and event.token in self._computing:
            self._held[event.token] = event
            deadline_ms = self._computing[event.token].item.request.deadline_ms
            return [SetTimer(f"late|{event.token}", deadline_ms + LATE_MS)]
        if isinstance(event, TimerFired) and event.name.startswith("late|"):
            return super().handle(self._held.pop(event.name.removeprefix("late|")), now_ms)
        return super().handle(event, now_ms)


class Silent(Inference):
    """Takes requests and never does anything about them."""

    def handle(self, event: Event, now_ms: int) -> list[Effect]:
        return [effect for effect in super().handle(event, now_ms) if not isinstance(effect, Compute)]


class Withholding(Inference):
    """Does the work and claims its pay, sends nobody the result and publishes none."""

    def handle(self, event: Event, now_ms: int) -> list[Effect]:
        return [effect for effect in super().handle(event, now_ms) if not self._is_kept(effect)]

    def _is_kept(self, effect: Effect) -> bool:
        return _is_result(effect) or (isinstance(effect, Submit) and isinstance(effect.item, PublishOutput))


class Unsettling(Withholding):
    """Claims, but neither sends the result nor settles, nor opens what it has claimed."""

    def _is_kept(self, effect: Effect) -> bool:
        is_settlement = isinstance(effect, Submit) and isinstance(effect.item, SettleIndividual | OpenClaim)
        return is_settlement or super()._is_kept(effect)


class Mumbling(Withholding):
    """Sends nobody the result, as if all its replies were lost, but publishes what it is asked for."""

    def _is_kept(self, effect: Effect) -> bool:
        return _is_result(effect)


class Dodging(LyingInference):
    """Lies in workflows' runs, and lets them fail where a verifier has found it out."""

    def handle(self, event: Event, now_ms: int) -> list[Effect]:
        effects = super().handle(event, now_ms)
        return [each for each in effects if not (isinstance(each, Submit) and isinstance(each.item, ContestRun))]


# Verifiers


class Blind(Verifier):
    """Runs no model and attests something that could be an answer."""

    def handle(self, event: Event, now_ms: int) -> list[Effect]:
        effects: list[Effect] = []
        for effect in super().handle(event, now_ms):
            if isinstance(effect, Compute):
                made_up = (Tensor("int32", (1, 10), bytes(40)),)
                effects += super().handle(Computed(effect.token, made_up, "", ""), now_ms)
            else:
                effects.append(effect)
        return effects


class Abstaining(Verifier):
    """Is drawn and says nothing."""

    def handle(self, event: Event, now_ms: int) -> list[Effect]:
        return [effect for effect in super().handle(event, now_ms) if not isinstance(effect, Compute)]


class CopyingVerifier(Abstaining):
    """Runs no model and says what another verifier of the same claim has said."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._copied: set[bytes] = set()

    def handle(self, event: Event, now_ms: int) -> list[Effect]:
        effects = super().handle(event, now_ms)
        if isinstance(event, Received) and isinstance(event.message, Attestations):
            effects += self._copy(event.message.items)
        if isinstance(event, LedgerAdvanced):
            effects += self._copy_leaves(event.state)
        return effects

    @property
    def topics(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("claims", *(f"proofs/{shard}" for shard in range(1 << PROOF_SHARD_BITS)))

    def _copy(self, items: tuple[Attestation, ...]) -> list[Effect]:
        fresh = [item for item in items if item.claim_id in self._running and item.claim_id not in self._copied]
        self._copied |= {item.claim_id for item in fresh}
        own = self.context.signer
        copies = [sign(replace(item, verifier=own.public), own) for item in fresh]
        topics = [proofs_topic(self._running[item.claim_id].claim.worker) for item in fresh]
        return [Publish(topic, Attestations((copy,))) for topic, copy in zip(topics, copies, strict=True)]

    def _copy_leaves(self, state: State) -> list[Effect]:
        effects: list[Effect] = []
        for key, check in state.checks.items():
            mine = [item for item in check.checkers if item.account == self.context.account.public and not item.value]
            said = [item.value for item in check.checkers if item.value]
            if mine and said and key not in self._copied and state.batches[key[:32]].phase == BatchPhase.ATTESTATIONS:
                self._copied.add(key)
                words = (LeafAttestation(int.from_bytes(key[32:], "big"), said[0]),)
                effects.append(Submit(AttestLeaves(key[:32], words), f"copy-{key.hex()}"))
        return effects


class Colluding(Verifier):
    """Knows which jobs lying workers lie about, and attests their lies."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._lie_bp = int(context.config.get("lie_bp", BP))

    def handle(self, event: Event, now_ms: int) -> list[Effect]:
        if isinstance(event, Computed) and event.outputs is not None and self._is_friend_lying(event.token):
            event = replace(event, outputs=distort(event.outputs))
        return super().handle(event, now_ms)

    def _is_friend_lying(self, token: str) -> bool:
        if token.startswith(LEAF_TOKEN):
            claim = self._ledger.checks[bytes.fromhex(token.removeprefix(LEAF_TOKEN))].claim
        else:
            claim = self._running[bytes.fromhex(token)].claim
        is_friend = claim.worker in self._list_friends()
        return is_friend and would_lie(claim.worker, compute_job_key(claim.channel, claim.seq).hex(), self._lie_bp)

    def _list_friends(self) -> frozenset[bytes]:
        return frozenset(bytes.fromhex(node) for node in self.context.config.get("friends", ()))


class Framing(Verifier):
    """Attests, of every honest answer, one and the same other one; with all drawn alike it looks like the truth."""

    def handle(self, event: Event, now_ms: int) -> list[Effect]:
        if isinstance(event, Computed) and event.outputs is not None:
            event = replace(event, outputs=distort(event.outputs))
        return super().handle(event, now_ms)


class Slandering(Framing):
    """Stands by such an answer: says that its own trace ends with it, and disputes what it knows to be right."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._lies: dict[bytes, bytes] = {}  # digest of the true outputs -> of what was said instead

    def handle(self, event: Event, now_ms: int) -> list[Effect]:
        match event:
            case Computed(outputs=tuple() as outputs):
                self._lies[compute_tensors_digest(outputs)] = compute_tensors_digest(distort(outputs))
            case Inspected(answer=TracedRun() as run):
                truth = run.trace[-DIGEST_SIZE:]
                said = replace(run, trace=run.trace[:-DIGEST_SIZE] + self._lies.get(truth, truth))
                event = replace(event, answer=said)
            case Inspected(answer=OperatorRun()):
                event = replace(event, answer=None, error="it would show who is right")
        return super().handle(event, now_ms)


# Clients


class _CheatingPurse(Purse):
    """Signs vouchers over a grain less, or one number again and again."""

    def __init__(self, purse: Purse, short: int, repeats: bool) -> None:
        self.__dict__.update(purse.__dict__)
        self._short = short
        self._repeats = repeats
        self._first: dict[bytes, Voucher] = {}

    def sign_voucher(self, channel: bytes, amount: int, request_id: bytes, attempt: int, expiry_ms: int) -> Voucher:
        first = self._first.get(channel)
        if first is not None and self._repeats:
            again = replace(first, request_id=request_id, attempt=attempt, expiry_ms=expiry_ms)
            return sign(again, self._account)
        voucher = super().sign_voucher(channel, amount - self._short, request_id, attempt, expiry_ms)
        return self._first.setdefault(channel, voucher)


class Underpaying(ClientRole):
    """Pays a grain less than the price."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._purse = self._dispatch._purse = _CheatingPurse(self._purse, short=1, repeats=False)


class Replaying(ClientRole):
    """Pays every request on a channel with the first one's voucher number."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._purse = self._dispatch._purse = _CheatingPurse(self._purse, short=0, repeats=True)


class Denying(ClientRole):
    """Closes a channel as soon as it has an answer from it, to be gone before the worker settles."""

    def handle(self, event: Event, now_ms: int) -> list[Effect]:
        effects = super().handle(event, now_ms)
        if any(isinstance(effect, Deliver) for effect in effects):
            own = self.context.account.public
            for key, channel in self._ledger.channels.items():
                if channel.payer == own and not channel.closing_ms:
                    effects.append(Submit(CloseChannel(key), f"deny-{key.hex()}"))
        return effects


def _is_result(effect: Effect) -> bool:
    """Sent, or in answer to a question on a stream."""
    return isinstance(effect, Send | Reply) and isinstance(effect.message, Result)


def _truncate(tensor: Tensor) -> Tensor:
    item_bytes, width = ITEM_SIZES[tensor.dtype], tensor.shape[-1]
    rows = [tensor.data[at : at + item_bytes * (width - 1)] for at in range(0, len(tensor.data), item_bytes * width)]
    return Tensor(tensor.dtype, (*tensor.shape[:-1], width - 1), b"".join(rows))


_CODES = {"uint8": "B", "int32": "i", "float32": "f"}


def _cast(tensor: Tensor, dtype: str) -> Tensor:
    """The same numbers as another type, cut to whole ones where that holds no others."""
    numbers = array(_CODES[tensor.dtype], tensor.data)
    kept = numbers if dtype == "float32" else [int(number) for number in numbers]
    return Tensor(dtype, tensor.shape, array(_CODES[dtype], kept).tobytes())
