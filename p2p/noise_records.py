"""The record phase of Noise: what follows the handshake, as bytes in and bytes out.

A record is `length (2, big endian) ‖ ciphertext ‖ tag (16)`: ChaCha20-Poly1305, no associated data, a nonce that counts
records. `Sealer` and `Opener` each hold one direction; they work on whole buffers, so one write carries as
many records as it needs and one read yields everything that has arrived. Source: Noise specification revision 34,
sections 3, 5.1 and 11.4; libp2p noise, "Wire Format".
"""

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from protocol.errors import LocalError, RemoteError

RECORD_BYTES_MAX = 65_535  # what two bytes of length can say
TAG_BYTES = 16
PLAINTEXT_BYTES_MAX = RECORD_BYTES_MAX - TAG_BYTES
LENGTH_BYTES = 2
IN_PLACE_BYTES_MIN = 4 * 1024  # a copy of so much costs more than to seal where the record will stand
NONCE_END = 2**64 - 1  # reserved by Noise; no record may use it


class BadRecord(RemoteError):
    """The peer sent a record that is too short, or that its key did not seal. Nothing after it can be read."""


class KeyWornOut(LocalError):
    """Every nonce of a key has been used. The connection must be made anew."""

    def __init__(self) -> None:
        super().__init__(f"no nonce below {NONCE_END} is left")


class Sealer:
    """Turns plaintext into records. `nonce` is that of the next one."""

    def __init__(self, key: bytes, nonce: int = 0) -> None:
        self._cipher = ChaCha20Poly1305(key)
        self.nonce = nonce

    def seal(self, *pieces: bytes | bytearray | memoryview) -> bytes | bytearray:
        """Each piece as records as large as may be. Raises KeyWornOut before sealing anything."""
        count = sum(-(-len(piece) // PLAINTEXT_BYTES_MAX) for piece in pieces)
        first = self.nonce
        if first + count > NONCE_END:
            raise KeyWornOut
        self.nonce = first + count
        if count == len(pieces) == 1 and len(pieces[0]) < IN_PLACE_BYTES_MIN:
            sealed = self._cipher.encrypt(_to_nonce(first), pieces[0], None)
            return len(sealed).to_bytes(LENGTH_BYTES, "big") + sealed
        records = bytearray(sum(map(len, pieces)) + count * (LENGTH_BYTES + TAG_BYTES))
        room, at, nonce = memoryview(records), 0, first
        for piece in pieces:
            for begin in range(0, len(piece), PLAINTEXT_BYTES_MAX):
                chunk = memoryview(piece)[begin : begin + PLAINTEXT_BYTES_MAX]
                size = len(chunk) + TAG_BYTES
                records[at : at + LENGTH_BYTES] = size.to_bytes(LENGTH_BYTES, "big")
                at += LENGTH_BYTES
                self._cipher.encrypt_into(_to_nonce(nonce), chunk, None, room[at : at + size])
                at += size
                nonce += 1
        return records


class Opener:
    """Turns records back into plaintext. Holds at most one record that has not arrived whole."""

    def __init__(self, key: bytes, nonce: int = 0) -> None:
        self._cipher = ChaCha20Poly1305(key)
        self.nonce = nonce
        self._rest = b""

    def receive(self, data: bytes) -> list[bytes]:
        """The plaintext of every record that is now whole, in order.

        Raises BadRecord, which is final, also when the peer goes on beyond the last nonce.
        """
        if self._rest:
            data = self._rest + data
        opened, at = self._open_all(data)
        self._rest = data[at:]
        return opened

    def _open_all(self, data: bytes) -> tuple[list[bytes], int]:
        opened: list[bytes] = []
        whole, at, end = memoryview(data), 0, len(data)
        nonce, decrypt = self.nonce, self._cipher.decrypt
        while end - at >= LENGTH_BYTES:
            size = data[at] << 8 | data[at + 1]
            if size < TAG_BYTES:
                raise BadRecord(f"a record of {size} bytes cannot hold its tag of {TAG_BYTES}")
            if end - at - LENGTH_BYTES < size:
                break
            if nonce >= NONCE_END:
                raise BadRecord("a record after the last nonce")
            at += LENGTH_BYTES
            try:
                opened.append(decrypt(_to_nonce(nonce), whole[at : at + size], None))
            except InvalidTag as error:
                raise BadRecord(f"record {nonce} was not sealed with this connection's key") from error
            nonce += 1
            at += size
        self.nonce = nonce
        return opened, at


def _to_nonce(counter: int) -> bytes:
    return b"\0\0\0\0" + counter.to_bytes(8, "little")
