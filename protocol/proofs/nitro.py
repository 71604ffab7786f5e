"""Attestation documents of AWS Nitro enclaves: who made them, when, and what they bind.

A document is a COSE_Sign1 structure in CBOR. Its payload names what the enclave runs (PCRs), carries what the enclave
was given to bind (`nonce`, `user_data`) and the chain of certificates from AWS's root to the key that signed it.
Source: AWS, "Verifying the root of trust" and the attestation process of aws-nitro-enclaves-nsm-api; RFC 9052.

`root` is a certificate in DER. The time is handed in: a leaf certificate holds for three hours, so a document is judged
as of its own day.
"""

from typing import Any, NoReturn

import cbor2
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from protocol.errors import InvalidProof
from protocol.fast_dataclass import fast_dataclass
from protocol.proofs.certificates import TIME_MS_MAX, Leaf, verify_chain
from protocol.proofs.context import Measurement

DOCUMENT_BYTES_MAX = 16 * 1024
DEPTH_MAX = 3  # of CBOR: a payload's map holds maps and lists of plain values
BOUND_BYTES_MAX = 1024  # of user data or nonce
PCRS_MAX = 32
PCR_SIZE = 48
AHEAD_MS_MAX = 60_000  # by how much an enclave's clock may be ahead of ours

_PROTECTED = b"\xa1\x01\x38\x22"  # {1: -35}, which is ES384 and all that Nitro signs with
_NUMBER_SIZE = 48  # of r and s
_FIELDS = {
    "module_id": str,
    "digest": str,
    "timestamp": int,
    "pcrs": dict,
    "certificate": bytes,
    "cabundle": list,
}
_OPTIONAL_FIELDS = ("public_key", "user_data", "nonce")
# cbor2 turns these tags into objects, some at a price (numbers with an exponent, patterns, mail). Nitro has no tags.
_TAGS = (*range(6), 25, 28, 29, 30, 35, 36, 37, 52, 54, 100, 256, 258, 260, 261, 1004, 43000, 55799)


@fast_dataclass(frozen=True)
class Attested:
    """What an authentic document says. `nonce` and `user_data` are empty when it binds none."""

    module: str
    timestamp_ms: int
    measurement: Measurement
    pcrs: tuple[tuple[int, bytes], ...]
    nonce: bytes
    user_data: bytes


def verify_nitro(
    document: bytes,
    at_ms: int,
    root: bytes,
    measurements: frozenset[Measurement],
    nonce: bytes,
    user_data: bytes,
) -> Attested:
    """What the document says, which `root` vouches for as of `at_ms`. InvalidProof, with the reason, otherwise.

    Otherwise also means: another measurement than the listed ones, another nonce, or other user data.
    """
    attested = verify_document(document, at_ms, root)
    if attested.measurement not in measurements:
        pcr0 = attested.measurement.pcr0.hex()
        raise InvalidProof(f"the enclave's measurement is not on the list of {len(measurements)}: its PCR0 is {pcr0}")
    if not nonce or attested.nonce != nonce:
        raise InvalidProof(f"the document binds nonce {attested.nonce.hex() or 'none'}, not {nonce.hex()}")
    if not user_data or attested.user_data != user_data:
        raise InvalidProof(f"the document binds user data {attested.user_data.hex() or 'none'}, not {user_data.hex()}")
    return attested


def verify_document(document: bytes, at_ms: int, root: bytes) -> Attested:
    """What an authentic document of a running enclave says, whatever it runs. InvalidProof otherwise."""
    if not 0 < len(document) <= DOCUMENT_BYTES_MAX:
        raise InvalidProof(f"a document of {len(document)} bytes, at most {DOCUMENT_BYTES_MAX} are read")
    parts = _decode(document)
    if type(parts) is not list or len(parts) != 4 or [type(part) for part in parts] != [bytes, dict, bytes, bytes]:
        raise InvalidProof("the document is no COSE_Sign1 structure")
    protected, unprotected, payload, signature = parts
    if protected != _PROTECTED or unprotected:
        raise InvalidProof("the document's headers are not those of ES384 alone")
    fields = _read_payload(payload)
    leaf = verify_chain(fields["certificate"], fields["cabundle"], at_ms, root)
    _verify_signature(leaf, payload, signature)
    _verify_time(fields["timestamp"], at_ms, leaf)
    return _read_attested(fields)


def _decode(data: bytes) -> Any:
    """One CBOR item, spelled the one shortest way, without tags, and nothing after it."""
    try:
        item = cbor2.loads(
            data,
            tag_hook=_refuse_tag,
            semantic_decoders=dict.fromkeys(_TAGS, _refuse_tag),
            max_depth=DEPTH_MAX,
            allow_indefinite=False,
            allow_duplicate_keys=False,
        )
        spelled = cbor2.dumps(item)
    except (cbor2.CBORError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise InvalidProof(f"not the CBOR of a document: {error}") from error
    if spelled != data:
        raise InvalidProof("the document's CBOR is not spelled the shortest way, or goes on after its end")
    return item


def _refuse_tag(*_: object) -> NoReturn:
    raise ValueError("a tag, which documents have none of")


def _read_payload(payload: bytes) -> dict[str, Any]:
    fields = _decode(payload)
    if type(fields) is not dict:
        raise InvalidProof("the payload is no map")
    unknown = [name for name in fields if name not in _FIELDS and name not in _OPTIONAL_FIELDS]
    if unknown:
        raise InvalidProof(f"the payload has {len(unknown)} fields that documents have not")
    for name, expected in _FIELDS.items():
        if type(fields.get(name)) is not expected:
            raise InvalidProof(f"the payload's {name} is missing or of another type")
    for name in _OPTIONAL_FIELDS:
        value = fields.get(name)
        if value is not None and (type(value) is not bytes or len(value) > BOUND_BYTES_MAX):
            raise InvalidProof(f"the payload's {name} is more than {BOUND_BYTES_MAX} bytes, or none")
    if fields["digest"] != "SHA384":
        raise InvalidProof("the payload's PCRs are not SHA384")
    if not 0 <= fields["timestamp"] <= TIME_MS_MAX:
        raise InvalidProof("the payload's timestamp is no time")
    return fields


def _verify_signature(leaf: Leaf, payload: bytes, signature: bytes) -> None:
    if len(signature) != 2 * _NUMBER_SIZE:
        raise InvalidProof(f"a signature of {len(signature)} bytes, ES384 has {2 * _NUMBER_SIZE}")
    r, s = int.from_bytes(signature[:_NUMBER_SIZE], "big"), int.from_bytes(signature[_NUMBER_SIZE:], "big")
    statement = cbor2.dumps(["Signature1", _PROTECTED, b"", payload])
    key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), leaf.point)
    try:
        key.verify(encode_dss_signature(r, s), statement, ec.ECDSA(hashes.SHA384()))
    except InvalidSignature as error:
        raise InvalidProof("the document's signature is not that of its leaf certificate") from error


def _verify_time(made_ms: int, at_ms: int, leaf: Leaf) -> None:
    if not leaf.start_ms <= made_ms <= leaf.end_ms or made_ms > at_ms + AHEAD_MS_MAX:
        raise InvalidProof(
            f"the document is of {made_ms} ms, when its leaf held not yet or no more, or after {at_ms} ms"
        )


def _read_attested(fields: dict[str, Any]) -> Attested:
    pcrs = fields["pcrs"]
    for number, value in pcrs.items():
        if type(number) is not int or not 0 <= number < PCRS_MAX or type(value) is not bytes or len(value) != PCR_SIZE:
            raise InvalidProof(f"a PCR that is not number 0 to {PCRS_MAX - 1} with {PCR_SIZE} bytes")
    first = [pcrs.get(number, b"") for number in range(3)]
    # An enclave in debug mode, whose memory its host reads, has nothing but zeros here.
    if any(not value.strip(b"\0") for value in first):
        raise InvalidProof("PCR 0, 1 or 2 is missing or zero: an enclave in debug mode shows nothing")
    return Attested(
        module=fields["module_id"],
        timestamp_ms=fields["timestamp"],
        measurement=Measurement(*first),
        pcrs=tuple(sorted(pcrs.items())),
        nonce=fields.get("nonce") or b"",
        user_data=fields.get("user_data") or b"",
    )
