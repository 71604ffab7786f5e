"""What becomes of a message that a check leaves unproven: what a network does with it, at once."""

from p2p.signature_checks import verify_unproven
from protocol.types import Unproven, Verdict


def settle(found: Verdict | Unproven) -> Verdict:
    """The verdict, the signature verified."""
    return verify_unproven(found) if isinstance(found, Unproven) else found
