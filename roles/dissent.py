"""A worker's question to a verifier that found another digest of a float model: near is as good as equal.

It is asked by the receipt what it found; what it shows takes the place of its blind word.
"""

from dataclasses import replace

from protocol.errors import ProtocolError
from protocol.jobs import Attestation
from protocol.ledger.state import State
from protocol.messages import GetOpening, Opening
from protocol.proofs.bounds import is_near, read_shown
from protocol.signing import verify_signed
from roles.role import Effect, Request
from roles.workbook import Job

NEAR = "near|"  # begins the tokens of questions for a verifier's outputs


def ask_dissenters(job: Job) -> list[Effect]:
    """What have those found that did not find what we did?"""
    assert job.receipt is not None
    question = GetOpening(job.receipt, ())
    return [Request(verifier, "proof", question, NEAR + job.claim_id.hex()) for verifier in sorted(job.unlike)]


def get_asked(token: str) -> bytes:
    """The id of the claim that a question's token is about."""
    return bytes.fromhex(token.removeprefix(NEAR))


def hear_shown(job: Job, verifier: bytes, message: object, state: State) -> bool:
    """Take a dissenting verifier's answer as its word if it shows outputs near to ours; whether it did."""
    shown = message.attestation if isinstance(message, Opening) else ()
    if not any(_is_near_word(job, item, job.attestations[verifier], state) for item in shown):
        return False
    job.hear(shown[0])
    return True


def _is_near_word(job: Job, shown: Attestation, blind: Attestation, state: State) -> bool:
    """Whether this shows what the verifier has said before, and that is near to what we found."""
    outputs = read_shown(shown)
    if replace(shown, shown=b"", signature=blind.signature) != blind or outputs is None:
        return False
    try:
        verify_signed(shown, blind.verifier)
    except ProtocolError:
        return False
    return is_near(state.models.get(job.model), job.outputs, outputs)
