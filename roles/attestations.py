"""How workers and clients ask for attestations that gossip has not brought."""

from protocol.messages import GetAttestations
from roles.role import Request


def ask_for(verifier: bytes, claim_ids: tuple[bytes, ...]) -> Request:
    """Ask a drawn verifier what it has said of these claims, at most GOSSIP_LIST_MAX of them.

    Each question has a token of its own: a second one with the same token is refused while the first is under way.
    """
    return Request(verifier, "sync", GetAttestations(claim_ids), f"pull-{claim_ids[0].hex()}")
