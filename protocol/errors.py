"""Whose fault it is: the errors `protocol` raises, and what each one asks its reader to do.

Every error carries the numbers that explain it. `RemoteError.verdict` is what gossip says about a message that
raised it.
"""

from typing import ClassVar

from protocol.types import Verdict


class ProtocolError(Exception):
    """Anything `protocol` raises on purpose."""


class LocalError(ProtocolError):
    """We broke our own rule: a bug, let it crash the task."""


class RemoteError(ProtocolError):
    """A peer broke a rule: drop the message, lower its score."""

    verdict: ClassVar[Verdict] = Verdict.REJECT


class MalformedMessage(RemoteError):
    """Bytes or text that nobody following the rules would have written."""


class BadSignature(RemoteError):
    """The signature does not fit what it stands under, or the key is none we accept."""


class InvalidProof(RemoteError):
    """The evidence does not show what it is said to show."""


class UnexpectedKind(RemoteError):
    """A known message kind where it has no business, a claim on the topic of requests, say."""

    def __init__(self, kind: int) -> None:
        super().__init__(f"kind 0x{kind:04x} is not carried here")
        self.kind = kind


class InvalidBlock(RemoteError):
    """A block that cannot follow the state it claims to follow."""


class NotForUs(RemoteError):
    """Honest peers may send this and we cannot use it: ignore it, and blame nobody."""

    verdict: ClassVar[Verdict] = Verdict.IGNORE


class CannotCheck(NotForUs):
    """This machine lacks what it takes to check the evidence, which may be good or bad. Says what to do about it."""


class UnknownVersion(NotForUs):
    """An envelope of another version than ours."""

    def __init__(self, version: int) -> None:
        super().__init__(f"envelope version {version} is not known here")
        self.version = version


class UnknownKind(NotForUs):
    """A message kind that no module here has registered."""

    def __init__(self, kind: int) -> None:
        super().__init__(f"message kind 0x{kind:04x} is not known here")
        self.kind = kind


class WrongChain(NotForUs):
    """A message of another chain."""

    def __init__(self, chain: bytes, expected: bytes) -> None:
        super().__init__(f"is for chain {chain.hex()}, not for {expected.hex()}")
        self.chain = chain
        self.expected = expected


class InvalidTransaction(ProtocolError):
    """The ledger says no: tell the sender why."""


class InsufficientBalance(InvalidTransaction):
    """The account cannot pay. Both amounts are in grains."""

    def __init__(self, have: int, need: int) -> None:
        super().__init__(f"has {have} grains, needs {need}")
        self.have = have
        self.need = need


class NonceMismatch(InvalidTransaction):
    """Not the account's next transaction."""

    def __init__(self, expected: int, got: int) -> None:
        super().__init__(f"nonce is {got}, the account's next is {expected}")
        self.expected = expected
        self.got = got


class MissingBlob(ProtocolError):
    """Nobody's fault: ask another peer."""

    def __init__(self, digest: bytes) -> None:
        super().__init__(f"blob {digest.hex()} is not here")
        self.digest = digest
