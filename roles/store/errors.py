"""What can go wrong in a store, with the numbers and names that explain it."""

from pathlib import Path

from protocol.cid import Cid
from protocol.errors import ProtocolError


class Damaged(ProtocolError):
    """Blocks of something that is kept are not here, or their bytes no longer fit their names."""

    def __init__(self, missing: int, first: Cid) -> None:
        super().__init__(f"{missing} of its blocks are not here or damaged, {first} for one")
        self.missing = missing
        self.first = first


class NotKept(ProtocolError):
    """Nothing of this name is pinned."""

    def __init__(self, cid: Cid) -> None:
        super().__init__(f"{cid} is not pinned here")
        self.cid = cid


class NotStorable(ProtocolError):
    """A file or folder that cannot be stored as it is."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class PutExpired(ProtocolError):
    """A put that paused for so long that its blocks may have been collected."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"the put has not moved for {seconds} s, its blocks may be gone: put it again")


class IndexDamaged(ProtocolError):
    """The index cannot be read."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
