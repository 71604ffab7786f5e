"""What a validator's vote log holds: every vote and proposal it has signed, and before a vote what the vote rests on.

Whoever votes for a block must be able to give it to others after any crash: a decided block that nobody holds any more
would be the end of the chain. Whoever finalises a view must be able to show that it was notarised: it cannot nullify it
any more, so a height of which all have forgotten the certificate would never end.
"""

from typing import Annotated

from protocol.codec import decode, encode
from protocol.consensus.messages import Proposal, Vote
from protocol.errors import MalformedMessage
from protocol.fast_dataclass import fast_dataclass
from protocol.ledger.block import Block, Certificate
from protocol.types import AtMost


@fast_dataclass(frozen=True)
class LogRecord:
    """One of the four."""

    votes: Annotated[tuple[Vote, ...], AtMost(1)]
    proposals: Annotated[tuple[Proposal, ...], AtMost(1)]
    blocks: Annotated[tuple[Block, ...], AtMost(1)]
    certificates: Annotated[tuple[Certificate, ...], AtMost(1)]


Kept = Vote | Proposal | Block | Certificate


def encode_record(record: Kept) -> bytes:
    match record:
        case Vote():
            return encode(LogRecord((record,), (), (), ()))
        case Proposal():
            return encode(LogRecord((), (record,), (), ()))
        case Block():
            return encode(LogRecord((), (), (record,), ()))
        case Certificate():
            return encode(LogRecord((), (), (), (record,)))


def decode_record(data: bytes) -> Kept:
    """MalformedMessage for anything but what `encode_record` writes."""
    held = decode(LogRecord, data)
    records: tuple[Kept, ...] = (*held.votes, *held.proposals, *held.blocks, *held.certificates)
    if len(records) != 1:
        raise MalformedMessage("a record of the vote log is one vote, one proposal, one block or one certificate")
    return records[0]


def get_height(record: Kept) -> int:
    return record.header.height if isinstance(record, Block) else record.ballot.height
