"""Where a store's blocks are: the seam between its index and what holds the bytes, files or a bucket."""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol


class Blocks(Protocol):
    """Blocks by digest. Any number of threads and processes may use one place; what may go is for the index to say."""

    def write(self, put: int, digest: bytes, data: bytes | memoryview) -> bool:
        """Have the block's bytes there; whether they were not yet. Durable after `sync`. Raises DiskFull, OSError."""

    def sync(self, shards: set[str]) -> None:
        """Make all that was written to these shards durable."""

    def read(self, digest: bytes) -> bytes:
        """The block. MissingBlob when it is not there or its bytes do not fit its name, OSError when nobody knows."""

    def read_into(self, digest: bytes, room: bytearray) -> bytes | memoryview:
        """As `read`; where the block fits into `room` what is returned may be a view of that."""

    def has_file(self, digest: bytes) -> bool:
        """Whether something stands under this name."""

    def remove(self, digest: bytes) -> None: ...

    def move_aside(self, digest: bytes) -> None:
        """Put what stands under this name where it is kept for people."""

    def list_shard(self, shard: str) -> list[bytes]:
        """The blocks whose names begin so; strange names are let be."""

    def is_empty(self) -> bool:
        """Whether there is no block at all."""

    def list_temporary(self) -> Iterator[tuple[int, Path]]:
        """Files of puts that have not ended, or never will, with the number of the put."""

    def count_free_bytes(self) -> int:
        """What there is room for."""
