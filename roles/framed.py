"""Files of frames that are appended: `mark (4) ‖ length (4) ‖ CRC-32 (4) ‖ content`, so that a torn end is seen."""

import os
import struct
import zlib

HEAD = struct.Struct("!4sII")


def pack(mark: bytes, content: bytes) -> bytes:
    return HEAD.pack(mark, len(content), zlib.crc32(content)) + content


def read(mark: bytes, data: bytes, at: int) -> bytes | None:
    """The content of the frame that begins there; None when none does, or not a whole one."""
    if at + HEAD.size > len(data):
        return None
    found, length, checksum = HEAD.unpack_from(data, at)
    content = data[at + HEAD.size : at + HEAD.size + length]
    if found != mark or len(content) != length or zlib.crc32(content) != checksum:
        return None
    return content


def read_all(mark: bytes, data: bytes) -> tuple[list[bytes], int]:
    """The contents of the whole frames from the beginning on, and where they end."""
    contents: list[bytes] = []
    at = 0
    while (content := read(mark, data, at)) is not None:
        contents.append(content)
        at += HEAD.size + len(content)
    return contents, at


def write_all(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]
