"""Whole numbers as protobuf writes them: seven bits a byte, the lowest first. Source: protobuf.dev, Encoding.

Whoever reads them has limits and errors of its own: `p2p.protobuf`, `protocol.dag_pb`, `roles.engine.protobuf`.
"""


def write_varint(value: int) -> bytes:
    """A whole number that is not negative.

    >>> write_varint(300)
    b'\\xac\\x02'
    """
    if value < 0x80:
        return bytes((value,))
    if value < 0x4000:
        return bytes((value & 0x7F | 0x80, value >> 7))
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
