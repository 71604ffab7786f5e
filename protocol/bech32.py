"""Text with a checksum for 32-byte keys: bech32m, in which a typo cannot pass for another key. Source: BIP-350."""

from protocol.errors import LocalError, MalformedMessage

TEXT_MAX = 90
CHECKSUM_SIZE = 6
_ALPHABET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_VALUES = {letter: value for value, letter in enumerate(_ALPHABET)}
_GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_BECH32M = 0x2BC830A3


def format_bech32m(prefix: str, groups: tuple[int, ...]) -> str:
    """Text of five-bit groups under a prefix."""
    if len(prefix) + 1 + len(groups) + CHECKSUM_SIZE > TEXT_MAX:
        raise LocalError(f"{len(groups)} groups do not fit {TEXT_MAX} characters")
    state = _compute_checksum((*_expand(prefix), *groups, *(0,) * CHECKSUM_SIZE)) ^ _BECH32M
    checksum = tuple((state >> 5 * (CHECKSUM_SIZE - 1 - index)) & 31 for index in range(CHECKSUM_SIZE))
    return prefix + "1" + "".join(_ALPHABET[value] for value in groups + checksum)


def parse_bech32m(text: str) -> tuple[str, tuple[int, ...]]:
    """Prefix and five-bit groups of a text, all lower or all upper case. MalformedMessage says what is wrong."""
    if len(text) > TEXT_MAX or not all("!" <= letter <= "~" for letter in text):
        raise MalformedMessage(f"not bech32m: more than {TEXT_MAX} characters, or not printable ones")
    if text != text.lower() and text != text.upper():
        raise MalformedMessage("not bech32m: upper and lower case mixed")
    prefix, separator, letters = text.lower().rpartition("1")
    if not separator or not prefix or len(letters) < CHECKSUM_SIZE:
        raise MalformedMessage("not bech32m: no prefix, or no checksum")
    try:
        values = tuple(_VALUES[letter] for letter in letters)
    except KeyError as error:
        raise MalformedMessage(f"not bech32m: {error.args[0]!r} is not one of its letters") from error
    if _compute_checksum((*_expand(prefix), *values)) != _BECH32M:
        raise MalformedMessage("not bech32m: the checksum does not fit, look for a typo")
    return prefix, values[:-CHECKSUM_SIZE]


def to_groups(data: bytes) -> tuple[int, ...]:
    """Bytes as five-bit groups, the last one padded with zeros."""
    count = (len(data) * 8 + 4) // 5
    number = int.from_bytes(data) << (count * 5 - len(data) * 8)
    return tuple((number >> 5 * (count - 1 - index)) & 31 for index in range(count))


def from_groups(groups: tuple[int, ...]) -> bytes:
    """Bytes of five-bit groups. MalformedMessage when the padding is not the shortest, of zeros."""
    padding = len(groups) * 5 % 8
    number = 0
    for value in groups:
        number = number << 5 | value
    if padding > 4 or number & ((1 << padding) - 1):
        raise MalformedMessage("not bech32m: wrong padding")
    return (number >> padding).to_bytes(len(groups) * 5 // 8)


def _expand(prefix: str) -> tuple[int, ...]:
    return (*(ord(letter) >> 5 for letter in prefix), 0, *(ord(letter) & 31 for letter in prefix))


def _compute_checksum(values: tuple[int, ...]) -> int:
    state = 1
    for value in values:
        top = state >> 25
        state = (state & 0x1FFFFFF) << 5 ^ value
        for index, generator in enumerate(_GENERATOR):
            if top >> index & 1:
                state ^= generator
    return state
