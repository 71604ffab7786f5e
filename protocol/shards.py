"""Folders too large for one node: entries spread over nodes of 256 places by the hash of their names.

An entry stands at the place that the first byte of its name's murmur3 says; places that several entries share hold a
node of their own, which the next byte divides, and so on. Each name has one place, so a folder has one tree.
Source: UnixFS specification, dag-pb HAMTDirectory; IPIP-499.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from protocol.dag_pb import Link, read_fields, write_bytes, write_number
from protocol.errors import MalformedMessage

SHARD = 5  # type of UnixFS node
FANOUT = 256
LEVELS_MAX = 8  # bytes of the hash
PREFIX_LETTERS = 2
_TYPE, _PLACES, _HASH, _FANOUT = 1, 2, 5, 6
_MURMUR3_X64_64 = 0x22
_MASK = 2**64 - 1


class Shard(NamedTuple):
    """A node of a divided folder: links by place, a name of two letters for a node below, of more for an entry."""

    links: tuple[Link, ...]


class Spread(NamedTuple):
    """Entries that share a node: names by place, or what is below that place."""

    places: Mapping[int, "str | Spread"]


def spread_names(names: Iterable[str], level: int = 0) -> Spread:
    """Where each name of a folder stands. MalformedMessage if two names have one hash, which nobody has found yet."""
    if level == LEVELS_MAX:
        raise MalformedMessage("two names of a folder have the same hash")
    shared: dict[int, list[str]] = {}
    for name in names:
        shared.setdefault(compute_name_hash(name)[level], []).append(name)
    places = {
        place: found[0] if len(found) == 1 else spread_names(found, level + 1)
        for place, found in sorted(shared.items())
    }
    return Spread(places)


def write_places(places: Iterable[int]) -> bytes:
    """What a node says about itself: which of its places are taken."""
    bits = sum(1 << place for place in places)
    taken = bits.to_bytes((bits.bit_length() + 7) // 8)
    return (
        write_number(_TYPE, SHARD)
        + write_bytes(_PLACES, taken)
        + write_number(_HASH, _MURMUR3_X64_64)
        + write_number(_FANOUT, FANOUT)
    )


def format_place(place: int) -> str:
    """The letters before the name.

    >>> format_place(10)
    '0A'
    """
    return f"{place:02X}"


def read_shard(links: tuple[Link, ...], data: bytes) -> Shard:
    """MalformedMessage unless the node is one that `write_places` and its links make."""
    if [number for number, _ in read_fields(data)] != [_TYPE, _PLACES, _HASH, _FANOUT]:
        raise MalformedMessage("a node of a divided folder has its type, places, hash and fanout, nothing else")
    try:
        places = [int(link.name[:PREFIX_LETTERS], 16) for link in links]
    except ValueError as error:
        raise MalformedMessage("a link of a divided folder without its place") from error
    if any(link.name[:PREFIX_LETTERS] != format_place(place) for link, place in zip(links, places, strict=True)):
        raise MalformedMessage("a link of a divided folder does not spell its place in two letters")
    if not places or places != sorted(set(places)) or data != write_places(places):
        raise MalformedMessage("the links of a divided folder are not at the places it names")
    return Shard(links)


def list_links(shard: Shard, path: bytes) -> Iterator[tuple[bytes, Link]]:
    """Each link with the path that leads to it; an entry has its own name, a node below none.

    MalformedMessage for an entry that its hash puts elsewhere: two places could hold one name.
    """
    for cid, name, dag_bytes in shard.links:
        place, own = int(name[:PREFIX_LETTERS], 16), name[PREFIX_LETTERS:]
        below = path + bytes((place,))
        if len(below) > LEVELS_MAX or (own and compute_name_hash(own)[: len(below)] != below):
            raise MalformedMessage(f"{own!r} is not at its place in a divided folder")
        yield below, Link(cid, own, dag_bytes)


def compute_name_hash(name: str) -> bytes:
    """The first half of murmur3-x64-128 without a seed, eight bytes. Source: A. Appleby, MurmurHash3 (public domain).

    >>> compute_name_hash("hello").hex()
    'cbd8a7b341bd9b02'
    """
    data = name.encode()
    first = second = 0
    whole = len(data) & ~15
    for at in range(0, whole, 16):
        first ^= _mix_first(int.from_bytes(data[at : at + 8], "little"))
        first = (_rotate(first, 27) + second) * 5 + 0x52DCE729 & _MASK
        second ^= _mix_second(int.from_bytes(data[at + 8 : at + 16], "little"))
        second = (_rotate(second, 31) + first) * 5 + 0x38495AB5 & _MASK
    rest = data[whole:]
    second ^= _mix_second(int.from_bytes(rest[8:], "little"))
    first ^= _mix_first(int.from_bytes(rest[:8], "little"))
    first, second = first ^ len(data), second ^ len(data)
    first = first + second & _MASK
    second = second + first & _MASK
    return (_finish(first) + _finish(second) & _MASK).to_bytes(8)


def _mix_first(word: int) -> int:
    return _rotate(word * 0x87C37B91114253D5 & _MASK, 31) * 0x4CF5AD432745937F & _MASK


def _mix_second(word: int) -> int:
    return _rotate(word * 0x4CF5AD432745937F & _MASK, 33) * 0x87C37B91114253D5 & _MASK


def _rotate(word: int, bits: int) -> int:
    return (word << bits | word >> 64 - bits) & _MASK


def _finish(word: int) -> int:
    word = (word ^ word >> 33) * 0xFF51AFD7ED558CCD & _MASK
    word = (word ^ word >> 33) * 0xC4CEB9FE1A85EC53 & _MASK
    return word ^ word >> 33
