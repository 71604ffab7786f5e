"""How disputes about some claims went, told from the states of a ledger that is being recomputed."""

from collections.abc import Collection

from protocol.jobs import compute_claim_id
from protocol.keys import format_account
from protocol.ledger.dispute_records import Dispute, DisputePhase
from protocol.ledger.state import State
from protocol.proofs.trace import unpack_trace


class DisputeCourse:
    """What was said about each claim, block by block: claim id -> lines."""

    def __init__(self, claim_ids: Collection[bytes]) -> None:
        self._claim_ids = claim_ids
        self.lines: dict[bytes, list[str]] = {}

    def take(self, before: State, after: State) -> None:
        """Note what one block changed."""
        for key in sorted(before.disputes.keys() | after.disputes.keys()):
            last, now = before.disputes.get(key), after.disputes.get(key)
            held = now or last
            assert held is not None
            claim_id = compute_claim_id(held.claim)
            if claim_id not in self._claim_ids or now == last:
                continue
            text = _tell(last, now) if now is not None else _tell_end(held, claim_id, after)
            self.lines.setdefault(claim_id, []).append(f"block {after.height}: {text}")


def _tell(last: Dispute | None, now: Dispute) -> str:
    if last is None:
        return f"{format_account(now.challenger)} disputes it with a bond of {now.bond} grains"
    if len(now.votes) > len(last.votes):
        return f"{len(now.votes)} validators have judged"
    part = f"part {now.operator} of step {now.step}" if now.generated else f"operator {now.operator}"
    match now.phase:
        case DisputePhase.STEP:
            return "the worker shows the tokens and what each step gave"
        case DisputePhase.TRACE:
            return f"the challenger names step {now.step}"
        case DisputePhase.NAME if now.generated:
            return f"the worker says what each of {len(unpack_trace(now.trace)) - 1} parts of step {now.step} gave"
        case DisputePhase.NAME:
            return f"the worker says what each of {len(unpack_trace(now.trace)) - 1} operators gave"
        case DisputePhase.EXHIBIT:
            return f"the challenger names {part}"
        case _:
            return f"the worker shows what {part} took"


def _tell_end(last: Dispute, claim_id: bytes, after: State) -> str:
    if claim_id in after.wrong:
        is_silent = last.phase in (DisputePhase.STEPS, DisputePhase.TRACE, DisputePhase.EXHIBIT)
        return "the worker has lost by its silence" if is_silent else "validators found the worker wrong"
    if last.phase in (DisputePhase.STEP, DisputePhase.NAME):
        return "the challenger was silent and has lost its bond"
    if after.time_ms <= last.deadline_ms:
        return "validators found the challenger wrong, which has lost its bond"
    return "validators did not decide: the bond went back, and the leaf if it was in a batch"
