"""Chains of X.509 certificates, judged as of a time that is handed in.

cryptography's own verifier builds and checks the path; what enclaves need of each certificate is said here. Nothing of
`cryptography.x509` is imported before a chain is checked: it loads `socket`, which nobody who does not need it should.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from protocol.errors import InvalidProof
from protocol.fast_dataclass import fast_dataclass

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.x509.verification import ExtensionPolicy

CERTIFICATE_BYTES_MAX = 1024
CHAIN_MAX = 8  # certificates above the leaf; Nitro's have four
TIME_MS_MAX = 253_370_764_800_000  # the year 9999: no certificate lives longer


@fast_dataclass(frozen=True)
class Leaf:
    """The key at a chain's end: an uncompressed point of P-384, and from when to when it holds."""

    point: bytes
    start_ms: int
    end_ms: int


def verify_chain(certificate: bytes, bundle: Sequence[object], at_ms: int, root: bytes) -> Leaf:
    """The leaf, to which a path of CAs leads from `root` that uses the whole bundle and holds at `at_ms`.

    All certificates are in DER; the bundle begins with the root and ends above the leaf. InvalidProof otherwise.
    """
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

    if not 0 <= at_ms <= TIME_MS_MAX:
        raise InvalidProof(f"{at_ms} ms is no time at which a certificate holds")
    if not 1 <= len(bundle) <= CHAIN_MAX or bundle[0] != root:
        raise InvalidProof("the chain does not begin at the root that is trusted here")
    top = x509.load_der_x509_certificate(root)
    start = top.not_valid_before_utc
    moment = start.fromtimestamp(at_ms // 1000, start.tzinfo)  # of the type that certificates have their dates in
    try:
        leaf, *others = [x509.load_der_x509_certificate(_check_size(data)) for data in (certificate, *bundle[1:])]
        authorities, leaves = _build_policies()
        policy = PolicyBuilder().store(Store([top])).time(moment).max_chain_depth(CHAIN_MAX)
        policy = policy.extension_policies(ca_policy=authorities, ee_policy=leaves)
        path = policy.build_client_verifier().verify(leaf, others).chain
    except (VerificationError, UnsupportedAlgorithm, ValueError, x509.InvalidVersion) as error:
        raise InvalidProof(f"the certificates lead nowhere at {at_ms} ms: {error}") from error
    if path != [leaf, *reversed(others), top]:
        raise InvalidProof("the certificates are not in order, or more than the chain needs")
    return _read_leaf(leaf)


def _check_size(data: object) -> bytes:
    if type(data) is not bytes or not 0 < len(data) <= CERTIFICATE_BYTES_MAX:
        raise InvalidProof(f"a certificate is no bytes, or more than {CERTIFICATE_BYTES_MAX}")
    return data


def _build_policies() -> "tuple[ExtensionPolicy, ExtensionPolicy]":
    """What extensions must say, of authorities and of the leaf. CA flags and path lengths the verifier checks."""
    from cryptography import x509
    from cryptography.x509.verification import Criticality, ExtensionPolicy

    policy, critical = ExtensionPolicy.permit_all(), Criticality.CRITICAL
    authorities = policy.require_present(x509.BasicConstraints, critical, None)
    authorities = authorities.require_present(x509.KeyUsage, critical, _require_certifying)
    leaves = policy.require_present(x509.BasicConstraints, critical, _require_leaf)
    return authorities, leaves.require_present(x509.KeyUsage, Criticality.AGNOSTIC, _require_signing)


def _require_certifying(_: object, __: object, usage: "x509.KeyUsage") -> None:
    if not usage.key_cert_sign:
        raise ValueError("a key in the chain may not sign certificates")


def _require_leaf(_: object, __: object, constraints: "x509.BasicConstraints") -> None:
    if constraints.ca:
        raise ValueError("the leaf is an authority")


def _require_signing(_: object, __: object, usage: "x509.KeyUsage") -> None:
    if not usage.digital_signature:
        raise ValueError("the leaf's key may not sign")


def _read_leaf(leaf: "x509.Certificate") -> Leaf:
    key = leaf.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise InvalidProof("the leaf's key is not of P-384")
    return Leaf(
        point=key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint),
        start_ms=int(leaf.not_valid_before_utc.timestamp()) * 1000,
        end_ms=int(leaf.not_valid_after_utc.timestamp()) * 1000,
    )
