"""What a validator's vote log holds: every vote and proposal it has signed, and each block before its vote for it.

Whoever votes for a block must be able to give it to others after any crash: a decided block that nobody holds any more
would be the end of the chain.
"""

from dataclasses import dataclass
from typing import Annotated

from protocol.codec import decode, encode
from protocol.consensus.messages import Proposal, Vote
from protocol.errors import MalformedMessage
from protocol.ledger.block import Block
from protocol.types import AtMost


@dataclass(frozen=True)
class LogRecord:
    """One of the three."""

    votes: Annotated[tuple[Vote, ...], AtMost(1)]
    proposals: Annotated[tuple[Proposal, ...], AtMost(1)]
    blocks: Annotated[tuple[Block, ...], AtMost(1)]


def encode_record(record: Vote | Proposal | Block) -> bytes:
    match record:
        case Vote():
            return encode(LogRecord((record,), (), ()))
        case Proposal():
            return encode(LogRecord((), (record,), ()))
        case Block():
            return encode(LogRecord((), (), (record,)))


def decode_record(data: bytes) -> Vote | Proposal | Block:
    """MalformedMessage for anything but what `encode_record` writes."""
    held = decode(LogRecord, data)
    records: tuple[Vote | Proposal | Block, ...] = (*held.votes, *held.proposals, *held.blocks)
    if len(records) != 1:
        raise MalformedMessage("a record of the vote log is one vote, one proposal or one block")
    return records[0]


def get_height(record: Vote | Proposal | Block) -> int:
    return record.header.height if isinstance(record, Block) else record.ballot.height
