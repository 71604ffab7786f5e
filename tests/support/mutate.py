"""Damage bytes the way chance, broken peers and attackers do, from a seed."""

from random import Random

# Headers that say another type, a wider number, a longer length or deeper nesting than is there.
HEADERS = (
    *(
        bytes.fromhex(text)
        for text in (
            *("c0", "c1", "c2", "c3", "80", "90", "a0", "c400", "d900", "dc0000", "dd00000000", "ddffffffff", "de0000"),
            *("dfffffffff", "c600000000", "c6ffffffff", "db00000000", "dbffffffff", "c7ff05", "c9ffffffff05", "d4ff00"),
            *("d6ff00000000", "c70cff000000000000000000000000", "ca7fc00000", "cb7ff8000000000000", "cc00", "cd0000"),
            *("ce00000000", "cf0000000000000000", "cfffffffffffffffff", "d0ff", "d3ffffffffffffffff", "ff", "e0"),
            *("a1ff", "a3eda080"),
        )
    ),
    *(b"\x91" * 600, b"\x91" * 1100, b"\x81" * 300),
)


def mutate(data: bytes, others: tuple[bytes, ...], rng: Random) -> bytes:
    """One to four random changes to `data`; `others` lend pieces of themselves."""
    for _ in range(rng.randint(1, 4)):
        data = rng.choice((_flip, _cut, _insert, _replace, _repeat, _splice, _swap))(data, others, rng)
    return data


def make_noise(rng: Random) -> bytes:
    """Random bytes, some of which begin like an array."""
    noise = rng.randbytes(rng.randrange(120))
    return rng.choice((noise, bytes((0x90 + rng.randrange(16),)) + noise, rng.choice(HEADERS) + noise))


def _flip(data: bytes, _: tuple[bytes, ...], rng: Random) -> bytes:
    if not data:
        return data
    position = rng.randrange(len(data))
    return data[:position] + bytes((data[position] ^ 1 << rng.randrange(8),)) + data[position + 1 :]


def _cut(data: bytes, _: tuple[bytes, ...], rng: Random) -> bytes:
    start = rng.randint(0, len(data))
    return data[:start] + data[rng.randint(start, len(data)) :]


def _insert(data: bytes, _: tuple[bytes, ...], rng: Random) -> bytes:
    position = rng.randint(0, len(data))
    return data[:position] + rng.choice((rng.randbytes(rng.randint(1, 9)), rng.choice(HEADERS))) + data[position:]


def _replace(data: bytes, _: tuple[bytes, ...], rng: Random) -> bytes:
    position = rng.randint(0, len(data))
    header = rng.choice(HEADERS)
    return data[:position] + header + data[position + len(header) :]


def _repeat(data: bytes, _: tuple[bytes, ...], rng: Random) -> bytes:
    start = rng.randint(0, len(data))
    piece = data[start : start + rng.randint(1, 40)]
    return data[:start] + piece * rng.randint(1, 20) + data[start:]


def _splice(data: bytes, others: tuple[bytes, ...], rng: Random) -> bytes:
    other = rng.choice(others)
    return data[: rng.randint(0, len(data))] + other[rng.randint(0, len(other)) :]


def _swap(data: bytes, others: tuple[bytes, ...], rng: Random) -> bytes:
    return rng.choice((rng.choice(others), data))
