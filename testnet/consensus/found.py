"""What a run of simulated validators had in it, and its events in words."""

from dataclasses import dataclass, field
from hashlib import sha256

from protocol.ledger.block import VoteKind
from protocol.messages import Blocks, Said


@dataclass
class Found:
    """What a run had in it."""

    events: int = 0
    transactions: int = 0
    crashes: int = 0
    restarts: int = 0
    torn: int = 0
    forgotten: int = 0
    partitions: int = 0
    has_power_loss: bool = False  # of all validators at once
    has_lying_proposer: bool = False
    has_view_change: bool = False
    has_late_view_change: bool = False
    slashed: int = 0
    accused: set[bytes] = field(default_factory=set)  # vote keys
    violations: list[str] = field(default_factory=list)


def describe(data: object) -> str:
    """What an event carries, in a few words."""
    match data:
        case (int(), Said() as said):
            votes = [f"{VoteKind(vote.ballot.kind).name.lower()} {vote.ballot.view}" for vote in said.votes]
            proposed = [f"proposal {item.proposal.ballot.view}" for item in said.proposed]
            certificates = [
                f"certified {VoteKind(item.ballot.kind).name.lower()} {item.ballot.view}" for item in said.certificates
            ]
            ballots = [item.ballot for item in said.votes] + [item.ballot for item in said.certificates]
            heights = {ballot.height for ballot in (*ballots, *(item.proposal.ballot for item in said.proposed))}
            words = ", ".join([*proposed, *certificates, *votes, *(["cause"] if said.causes else [])])
            return f"from {data[0]}, height {'/'.join(map(str, sorted(heights)))}: {words}"
        case (int(), Blocks(tip, items)):
            return f"{len(items)} blocks up to {tip}"
        case (str() as name, int()):
            return name
        case int() | str():
            return str(data)
        case bytes():
            return f"transaction {sha256(data).hexdigest()[:8]}"
        case None:
            return ""
    return type(data[-1] if isinstance(data, tuple) else data).__name__
