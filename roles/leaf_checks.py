"""A verifier's part in batches: runs drawn leaves again, attests them on the ledger, disputes what it finds wrong.

Of float models it shows its outputs where they are not the worker's and within the bound of them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, NamedTuple

from protocol.codec import decode, encode
from protocol.jobs import compute_attestation, compute_claim_id
from protocol.ledger.batches import SAMPLES_MAX
from protocol.ledger.checks import AttestLeaves, LeafAttestation, LeafOutputs, ShowOutputs
from protocol.ledger.disputes import CheckedLeaf
from protocol.ledger.job_records import BatchPhase, Check, Checker
from protocol.ledger.model_records import ModelRecord
from protocol.ledger.state import State
from protocol.proofs.bounds import get_bound_ppt, is_disputed, is_near
from protocol.tensor import TENSORS_MAX, Tensor, compute_tensors_digest
from protocol.types import AtMost, Digest, Line
from roles.challenge import Challenge
from roles.challenger import Challenger
from roles.models import ModelShelf
from roles.packing import pack
from roles.role import Compute, Computed, Effect, Record, SetTimer, Store, Submit

LEAF_TOKEN = "leaf|"
RUNNING_MAX = 64
AGAIN_MS = 1_000


class _Asked(NamedTuple):
    """A leaf this verifier is drawn for, by its key on the ledger."""

    key: bytes
    check: Check
    own: Checker

    @property
    def batch(self) -> bytes:
        return self.key[:32]

    @property
    def leaf(self) -> int:
        return int.from_bytes(self.key[32:], "big")


@dataclass(frozen=True)
class Found:
    """What this verifier has computed for a leaf. `outputs` are kept of models that have a bound."""

    digest: Digest
    profile: Line
    outputs: Annotated[tuple[Tensor, ...], AtMost(TENSORS_MAX)] = ()


class LeafChecks:
    """What one verifier does about leaves. Each digest is on disk before it is attested: a dissent needs it later."""

    def __init__(self, account: bytes, shelf: ModelShelf, challenger: Challenger) -> None:
        self._challenger = challenger
        self._account = account
        self._shelf = shelf
        self._found: dict[bytes, Found] = {}  # by check key
        self._running: set[bytes] = set()
        self._disputed: set[bytes] = set()
        self._sent: dict[str, tuple[bytes, ...]] = {}  # token -> check keys it speaks about

    @property
    def load(self) -> int:
        return len(self._running)

    def restore(self, stored: Mapping[bytes, bytes]) -> None:
        self._found = {key: decode(Found, data) for key, data in stored.items()}

    def look(self, state: State, now_ms: int) -> list[Effect]:
        """Run what is asked, attest what has run, show what differs, and forget what is over."""
        asked = list(self._list_asked(state))
        effects = self._forget(asked)
        said = {key for keys in self._sent.values() for key in keys}
        ready: dict[bytes, list[_Asked]] = {}
        near: dict[bytes, list[_Asked]] = {}
        for item in asked:
            phase = state.batches[item.batch].phase
            if item.key in said:
                continue
            if phase == BatchPhase.ATTESTATIONS and not item.own.value:
                if item.key in self._found:
                    ready.setdefault(item.batch, []).append(item)
                else:
                    effects += self._run(item, now_ms + state.params.attest_ms)
            elif phase == BatchPhase.WINDOW and self._dissents(item):
                if is_near(state.models.get(item.check.claim.model), item.check.outputs, self._found[item.key].outputs):
                    near.setdefault(item.batch, []).append(item)
                    continue
                self._disputed.add(item.key)
                effects.append(Record("dissent.found", {"batch": item.batch, "leaf": item.leaf}))
                challenge = self._dispute(item, state.models.get(item.check.claim.model))
                effects += self._challenger.begin(challenge, state, now_ms, _compute_rank(item))
        for batch, items in near.items():
            effects += self._show(batch, items)
        for batch, items in ready.items():
            # One transaction for all of a batch's leaves: it waits for those that still run.
            if not any(key[:32] == batch for key in self._running):
                effects += self._attest(batch, items[:SAMPLES_MAX])
        return effects

    def on_computed(self, event: Computed, state: State, now_ms: int) -> list[Effect]:
        key = bytes.fromhex(event.token.removeprefix(LEAF_TOKEN))
        self._running.discard(key)
        if event.outputs is None:
            return [Record("leaf.dropped", {"batch": key[:32], "reason": event.error})]
        check = state.checks.get(key)
        has_bound = check is not None and get_bound_ppt(state.models.get(check.claim.model))
        outputs = event.outputs if has_bound else ()
        found = self._found[key] = Found(compute_tensors_digest(event.outputs), event.profile, outputs)
        return [Store("leaves", key, encode(found)), *self.look(state, now_ms)]

    def on_submitted(self, token: str, error: str, now_ms: int) -> list[Effect]:
        """Whatever a transaction came to, the ledger says what is still asked."""
        if self._sent.pop(token, None) is None or not error:
            return []
        return [Record("leaf.refused", {"reason": error}), SetTimer("leaves", now_ms + AGAIN_MS)]

    def _list_asked(self, state: State) -> Iterator[_Asked]:
        for key, check in state.checks.items():
            own = next((checker for checker in check.checkers if checker.account == self._account), None)
            if own is not None and not check.is_void:
                yield _Asked(key, check, own)

    def _forget(self, asked: list[_Asked]) -> list[Effect]:
        over = self._found.keys() - {item.key for item in asked}
        for key in over:
            del self._found[key]
        self._disputed -= over
        return [Store("leaves", key, None) for key in sorted(over)]

    def _run(self, item: _Asked, deadline_ms: int) -> list[Effect]:
        request = item.check.request
        is_held = request.model in self._shelf.held
        if item.key in self._running or len(self._running) >= RUNNING_MAX or not is_held:
            return []
        self._running.add(item.key)
        return [Compute(LEAF_TOKEN + item.key.hex(), request.model, request.inputs, deadline_ms)]

    def _attest(self, batch: bytes, items: list[_Asked]) -> list[Effect]:
        token = f"attest-{batch.hex()}"
        self._sent[token] = tuple(item.key for item in items)
        said = Record("leaves.attested", {"batch": batch, "leaves": len(items)})
        return [Submit(AttestLeaves(batch, tuple(self._say(item) for item in items)), token), said]

    def _show(self, batch: bytes, items: list[_Asked]) -> list[Effect]:
        """The worker's outputs are others than ours, and count as the same: so that we are paid, ours are shown."""
        words = pack([LeafOutputs(item.leaf, self._found[item.key].outputs) for item in items], SAMPLES_MAX)[0]
        token = f"show-{batch.hex()}"
        self._sent[token] = tuple(item.key for item in items[: len(words)])
        return [
            Submit(ShowOutputs(batch, words), token),
            Record("outputs.shown", {"batch": batch, "leaves": len(words)}),
        ]

    def _say(self, item: _Asked) -> LeafAttestation:
        claim_id = compute_claim_id(item.check.claim)
        return LeafAttestation(item.leaf, compute_attestation(claim_id, item.own.node, self._found[item.key].digest))

    def _dispute(self, item: _Asked, model: ModelRecord | None) -> Challenge:
        check, found = item.check, self._found[item.key]
        return Challenge(
            claim=check.claim,
            receipt=(),
            leaf=(CheckedLeaf(item.batch, item.leaf),),
            claimed=check.output_digest,
            inputs=check.request.inputs,
            found=found.digest,
            profile=found.profile,
            is_beyond=int(bool(check.outputs) and is_disputed(model, check.outputs, found.outputs)),
        )

    def _dissents(self, item: _Asked) -> bool:
        found = self._found.get(item.key)
        is_new = bool(item.own.value) and not item.own.is_near and item.key not in self._disputed
        return is_new and found is not None and found.digest != item.check.output_digest


def _compute_rank(item: _Asked) -> int:
    """How many of those in dissent were drawn before us: they dispute first."""
    check, claim_id = item.check, compute_claim_id(item.check.claim)
    before = check.checkers[: check.checkers.index(item.own)]
    agreed = [compute_attestation(claim_id, other.node, check.output_digest) for other in before]
    return sum(other.value != value and not other.is_near for other, value in zip(before, agreed, strict=True))
