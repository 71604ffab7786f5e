"""Attestation documents in the form of AWS Nitro's, under a root of our own: what a test network has for an enclave.

Every key is derived from a text in this file, so anyone can make such documents: they show that the code which checks
them works, and nothing about hardware. `protocol.proofs` knows the root for the kind `tee_simulated` alone.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import cbor2
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID

from protocol.proofs.context import Measurement

HOUR_MS = 3_600_000
ROOT_NAME = "rolemesh simulated enclaves, no hardware"
ROOT_START_MS, ROOT_END_MS = 1_577_836_800_000, 4_102_444_800_000  # 2020-01-01 to 2100-01-01
MEASUREMENT = Measurement(*(hashlib.sha384(f"rolemesh simulated PCR{number}".encode()).digest() for number in range(3)))
_DER = serialization.Encoding.DER
_PROTECTED = cbor2.dumps({1: -35})  # ES384


@dataclass(frozen=True)
class Link:
    """A certificate with its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(_DER)


def make_key(name: str) -> ec.EllipticCurvePrivateKey:
    """The P-384 key that belongs to a name. Public knowledge, like the name."""
    secret = hashlib.sha384(f"rolemesh/v1/simulated-nitro/{name}".encode()).digest()
    return ec.derive_private_key(int.from_bytes(secret, "big"), ec.SECP384R1())


def make_link(
    name: str,
    parent: Link | None,
    start_ms: int,
    end_ms: int,
    path_length: int | None = None,
    is_ca: bool = True,
    certifies: bool | None = None,
    signs: bool | None = None,
) -> Link:
    """A certificate of `name`, signed by `parent` or else by itself. The same arguments give the same bytes.

    Its key may sign certificates (`certifies`) if it is an authority's and documents (`signs`) if not, unless said.
    """
    key, subject = make_key(name), _spell_name(name)
    usage = x509.KeyUsage(
        digital_signature=not is_ca if signs is None else signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_ca if certifies is None else certifies,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if parent is None else parent.certificate.subject)
        .public_key(key.public_key())
        .serial_number(int.from_bytes(hashlib.sha256(name.encode()).digest()[:15], "big"))
        .not_valid_before(datetime.fromtimestamp(start_ms // 1000, UTC))
        .not_valid_after(datetime.fromtimestamp(end_ms // 1000, UTC))
        .add_extension(x509.BasicConstraints(is_ca, path_length), critical=True)
        .add_extension(usage, critical=is_ca)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    signer = key if parent is None else parent.key
    return Link(builder.sign(signer, hashes.SHA384(), ecdsa_deterministic=True), key)


def make_root() -> Link:
    """The root that `tee_simulated` knows."""
    return make_link(ROOT_NAME, None, ROOT_START_MS, ROOT_END_MS)


def make_chain(at_ms: int, root: Link | None = None) -> tuple[Link, ...]:
    """Root, one CA in between and the leaf, which holds for three hours as Nitro's do."""
    top = make_root() if root is None else root
    middle = make_link("instance", top, at_ms - HOUR_MS, at_ms + 23 * HOUR_MS, path_length=0)
    return top, middle, make_link("enclave", middle, at_ms - 1_000, at_ms + 3 * HOUR_MS, is_ca=False)


def make_payload(
    chain: tuple[Link, ...], at_ms: int, pcrs: Mapping[int, bytes], nonce: bytes | None, user_data: bytes | None
) -> dict[str, object]:
    """What a document says, in the order in which Nitro says it."""
    return {
        "module_id": "simulated-enc",
        "digest": "SHA384",
        "timestamp": at_ms,
        "pcrs": {number: pcrs.get(number, bytes(48)) for number in range(16)},
        "certificate": chain[-1].der,
        "cabundle": [link.der for link in chain[:-1]],
        "public_key": None,
        "user_data": user_data,
        "nonce": nonce,
    }


def sign_payload(payload: bytes, key: ec.EllipticCurvePrivateKey, protected: bytes = _PROTECTED) -> bytes:
    """The COSE_Sign1 document of a payload."""
    statement = cbor2.dumps(["Signature1", protected, b"", payload])
    r, s = decode_dss_signature(key.sign(statement, ec.ECDSA(hashes.SHA384(), deterministic_signing=True)))
    return cbor2.dumps([protected, {}, payload, r.to_bytes(48, "big") + s.to_bytes(48, "big")])


def make_document(
    at_ms: int, nonce: bytes | None, user_data: bytes | None, measurement: Measurement = MEASUREMENT
) -> bytes:
    """A document of a simulated enclave that runs `measurement`, valid for three hours from `at_ms` on."""
    chain = make_chain(at_ms)
    pcrs = {0: measurement.pcr0, 1: measurement.pcr1, 2: measurement.pcr2}
    return sign_payload(cbor2.dumps(make_payload(chain, at_ms, pcrs, nonce, user_data)), chain[-1].key)


def _spell_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
