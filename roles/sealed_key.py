"""A private key under a passphrase, as text: scrypt stretches the passphrase, AES-256-GCM seals the key with it.

All else in the file (purpose, mark, chain, public key, the parameters themselves) is authenticated with the key, and
what the parameters may be is bounded before any work is done: a file can neither be weakened nor made to cost more
memory than STRONG does at most. Salt and nonce are handed in. What is sealed is libp2p's PrivateKey message, so that
the key can leave for other programs. Source: the keystores of EIP-2335, with the header authenticated.
"""

import json
import unicodedata
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from protocol.keys import KEY_SIZE, PrivateKey

SEALED = "sealed"
INSECURE_DEV = "insecure-dev"
FORMAT = 1
SALT_SIZE = 32
NONCE_SIZE = 12
SCRYPT_R, SCRYPT_P = 8, 1
# scrypt's N by mark: made with, at least, at most. Memory is 1 KiB times N: 128 MiB and about half a second, or 16 MiB.
COSTS = {SEALED: (2**17, 2**17, 2**20), INSECURE_DEV: (2**14, 2**14, 2**14)}
PASSPHRASE_BYTES_MAX = 1024
_LIBP2P = bytes((0x08, 0x01, 0x12, 0x40))  # {1: Ed25519, 2: 64 bytes: seed, public key}
_FIELDS = {"format", "purpose", "mark", "chain", "public", "kdf", "cipher", "sealed"}


class CannotOpen(Exception):
    """The text is no sealed key that this program may open, or the passphrase does not fit. Shows no secret."""


class WrongPassphrase(CannotOpen):
    """The seal does not open: another passphrase, or something in the file was changed. The two look the same."""

    def __init__(self) -> None:
        super().__init__("the passphrase does not fit, or the file was changed")


@dataclass(frozen=True)
class Label:
    """What a sealed key says about itself to whoever cannot open it. `chain` is empty unless it is good on one only."""

    purpose: str
    mark: str
    chain: str
    public: bytes


def seal_key(key: PrivateKey, label: Label, passphrase: str, salt: bytes, nonce: bytes) -> str:
    """The key as text under a passphrase. Takes as long as the mark of `label` asks for."""
    cost = COSTS[label.mark][0]
    header = {
        "format": FORMAT,
        "purpose": label.purpose,
        "mark": label.mark,
        "chain": label.chain,
        "public": label.public.hex(),
        "kdf": {"name": "scrypt", "n": cost, "r": SCRYPT_R, "p": SCRYPT_P, "salt": salt.hex()},
        "cipher": {"name": "aes-256-gcm", "nonce": nonce.hex()},
    }
    sealed = AESGCM(_stretch(passphrase, salt, cost)).encrypt(nonce, pack_libp2p(key), _authenticate(header))
    return json.dumps({**header, "sealed": sealed.hex()}, indent=1) + "\n"


def open_key(fields: dict[str, Any], passphrase: str) -> PrivateKey:
    """The key inside a file's fields. Raises CannotOpen; WrongPassphrase when the seal does not open."""
    label = read_label(fields)
    cost, salt = _read_kdf(fields["kdf"], label.mark)
    nonce = _read_cipher(fields["cipher"])
    header = {name: value for name, value in fields.items() if name != "sealed"}
    try:
        sealed = _read_hex(fields["sealed"], len(_LIBP2P) + 2 * KEY_SIZE + 16)
        data = AESGCM(_stretch(passphrase, salt, cost)).decrypt(nonce, sealed, _authenticate(header))
    except InvalidTag:
        raise WrongPassphrase from None
    key = unpack_libp2p(data)
    if key.public != label.public:
        raise CannotOpen("the key inside is not the one the file names")
    return key


def read_label(fields: dict[str, Any]) -> Label:
    """What a file says about the key it holds, not authenticated yet. Raises CannotOpen."""
    if fields.keys() != _FIELDS or fields["format"] != FORMAT:
        raise CannotOpen(f"it is no sealed key of format {FORMAT}")
    mark = fields["mark"]
    if not isinstance(mark, str) or mark not in COSTS:
        raise CannotOpen(f"it carries no known mark: a sealed key is marked {SEALED} or {INSECURE_DEV}")
    if not isinstance(fields["purpose"], str) or not isinstance(fields["chain"], str):
        raise CannotOpen("its purpose or its chain is no text")
    return Label(fields["purpose"], mark, fields["chain"], _read_hex(fields["public"], KEY_SIZE))


def pack_libp2p(key: PrivateKey) -> bytes:
    """The key as libp2p writes it: the protobuf message PrivateKey."""
    return _LIBP2P + key.seed + key.public


def unpack_libp2p(data: bytes) -> PrivateKey:
    """The key of a libp2p PrivateKey message. CannotOpen for any other than an Ed25519 one."""
    if len(data) != len(_LIBP2P) + 2 * KEY_SIZE or not data.startswith(_LIBP2P):
        raise CannotOpen("it is no Ed25519 key as libp2p writes them")
    key = PrivateKey.from_seed(data[len(_LIBP2P) :][:KEY_SIZE])
    if key.public != data[-KEY_SIZE:]:
        raise CannotOpen("its private half and its public half do not belong together")
    return key


def _stretch(passphrase: str, salt: bytes, cost: int) -> bytes:
    # The same letters may come as other code points from another keyboard: NFKC makes them one.
    text = unicodedata.normalize("NFKC", passphrase).encode()
    return Scrypt(salt=salt, length=32, n=cost, r=SCRYPT_R, p=SCRYPT_P).derive(text)


def _authenticate(header: dict[str, Any]) -> bytes:
    return json.dumps(header, sort_keys=True, separators=(",", ":")).encode()


def _read_kdf(kdf: Any, mark: str) -> tuple[int, bytes]:
    """N and the salt, checked before they cost anything."""
    _, least, most = COSTS[mark]
    if not isinstance(kdf, dict) or kdf.keys() != {"name", "n", "r", "p", "salt"} or kdf["name"] != "scrypt":
        raise CannotOpen("its passphrase is not stretched by scrypt")
    cost = kdf["n"]
    if type(cost) is not int or not least <= cost <= most or cost & (cost - 1):
        raise CannotOpen(f"scrypt's n must be a power of two from {least} to {most} in a key marked {mark}")
    if (kdf["r"], kdf["p"]) != (SCRYPT_R, SCRYPT_P):
        raise CannotOpen(f"scrypt's r and p must be {SCRYPT_R} and {SCRYPT_P}")
    return cost, _read_hex(kdf["salt"], SALT_SIZE)


def _read_cipher(cipher: Any) -> bytes:
    if not isinstance(cipher, dict) or cipher.keys() != {"name", "nonce"} or cipher["name"] != "aes-256-gcm":
        raise CannotOpen("it is not sealed with AES-256-GCM")
    return _read_hex(cipher["nonce"], NONCE_SIZE)


def _read_hex(text: Any, size: int) -> bytes:
    try:
        data = bytes.fromhex(text) if isinstance(text, str) else b""
    except ValueError:
        data = b""
    if len(data) != size:
        raise CannotOpen(f"{size} bytes in hex are missing or damaged")
    return data
