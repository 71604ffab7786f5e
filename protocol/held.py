"""What a block says once its bytes are here and fit its name: what it links, how large it is with all below it."""

from typing import NamedTuple

from protocol.cid import DAG_PB, Cid
from protocol.dag_pb import Link, decode_node
from protocol.unixfs_nodes import read_unixfs


class Held(NamedTuple):
    """A block that is here. `dag_bytes` are those of all blocks from it on down, by its own word."""

    cid: Cid
    dag_bytes: int
    links: tuple[Link, ...] = ()


def describe_block(cid: Cid, data: bytes | memoryview) -> Held:
    """Of a block whose bytes fit its name. MalformedMessage for a node that is neither file nor folder of ours."""
    if cid.codec != DAG_PB:
        return Held(cid, len(data))
    block = bytes(data)
    read_unixfs(block)
    links = decode_node(block).links
    return Held(cid, len(block) + sum(link.dag_bytes for link in links), links)
