"""Who leads a view: drawn by weight from the seed of the epoch, by everyone alike."""

from hashlib import sha256

from protocol.ledger.block import Validator
from protocol.signing import compute_domain_prefix

_PREFIX = compute_domain_prefix("leader")


def draw_leader(validators: tuple[Validator, ...], seed: bytes, height: int, view: int) -> bytes:
    """The vote key of a view's leader, drawn by weight. Everyone draws the same."""
    data = _PREFIX + seed + (height << 64 | view).to_bytes(16, "big")
    total = 0
    for validator in validators:  # few: a list of their weights would take longer
        total += validator.weight
    point = int.from_bytes(sha256(data).digest(), "big") % total
    for validator in validators:
        point -= validator.weight
        if point < 0:
            return validator.vote
    raise AssertionError("weights add up to more than the point drawn")
