"""A second valid signature of one key under one message: what a signer who does not keep to RFC 8032 can make."""

import hashlib

from nacl import bindings

from protocol.keys import PrivateKey


class OtherSigner:
    """Signs as the key does, with another nonce. Its signatures verify, and are none the key itself would make."""

    def __init__(self, key: PrivateKey) -> None:
        self.public = key.public
        digest = bytearray(hashlib.sha512(key.seed).digest()[:32])
        digest[0] &= 248
        digest[31] = digest[31] & 127 | 64
        self._secret = bindings.crypto_core_ed25519_scalar_reduce(bytes(digest) + bytes(32))

    def sign(self, message: bytes) -> bytes:
        nonce = bindings.crypto_core_ed25519_scalar_reduce(hashlib.sha512(b"other" + message).digest())
        point = bindings.crypto_scalarmult_ed25519_base_noclamp(nonce)
        challenge = hashlib.sha512(point + self.public + message).digest()
        product = bindings.crypto_core_ed25519_scalar_mul(
            bindings.crypto_core_ed25519_scalar_reduce(challenge), self._secret
        )
        return bytes(point + bindings.crypto_core_ed25519_scalar_add(nonce, product))
