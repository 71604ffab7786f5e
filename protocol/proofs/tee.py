"""The proof kinds `tee` and `tee_simulated`: an enclave's attestation document that binds the job's output.

The two differ in their root. Neither takes a document of the other, and only a test network takes simulated ones.
"""

import base64
import hashlib

from protocol.errors import InvalidProof
from protocol.fast_dataclass import fast_dataclass
from protocol.jobs import compute_claim_id, compute_request_id
from protocol.proofs.context import ProofContext
from protocol.proofs.nitro import DOCUMENT_BYTES_MAX, Attested, verify_nitro
from protocol.registry import ProofDescription

# sha256 641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b, as AWS publishes it.
AWS_ROOT = base64.b64decode(
    """
    MIICETCCAZagAwIBAgIRAPkxdWgbkK/hHUbMtOTn+FYwCgYIKoZIzj0EAwMwSTEL
    MAkGA1UEBhMCVVMxDzANBgNVBAoMBkFtYXpvbjEMMAoGA1UECwwDQVdTMRswGQYD
    VQQDDBJhd3Mubml0cm8tZW5jbGF2ZXMwHhcNMTkxMDI4MTMyODA1WhcNNDkxMDI4
    MTQyODA1WjBJMQswCQYDVQQGEwJVUzEPMA0GA1UECgwGQW1hem9uMQwwCgYDVQQL
    DANBV1MxGzAZBgNVBAMMEmF3cy5uaXRyby1lbmNsYXZlczB2MBAGByqGSM49AgEG
    BSuBBAAiA2IABPwCVOumCMHzaHDimtqQvkY4MpJzbolL//Zy2YlES1BR5TSksfbb
    48C8WBoyt7F2Bw7eEtaaP+ohG2bnUs990d0JX28TcPQXCEPZ3BABIeTPYwEoCWZE
    h8l5YoQwTcU/9KNCMEAwDwYDVR0TAQH/BAUwAwEB/zAdBgNVHQ4EFgQUkCW1DdkF
    R+eWw5b6cp3PmanfS5YwDgYDVR0PAQH/BAQDAgGGMAoGCCqGSM49BAMDA2kAMGYC
    MQCjfy+Rocm9Xue4YnwWmNJVA44fA0P5W2OpYow9OYCVRaEevL8uO1XYru5xtMPW
    rfMCMQCi85sWBbJwKKXdS6BptQFuZbT73o/gBh1qUxl/nNr12UO8Yfwr6wPLb+6N
    IwLz3/Y=
    """
)
# What `testnet.simulated_nitro` signs with. Its private key is public.
SIMULATED_ROOT = base64.b64decode(
    """
    MIIB5jCCAWugAwIBAgIQALHedkLwxEen5wC2J7q5NDAKBggqhkjOPQQDAzAzMTEw
    LwYDVQQDDChyb2xlbWVzaCBzaW11bGF0ZWQgZW5jbGF2ZXMsIG5vIGhhcmR3YXJl
    MCAXDTIwMDEwMTAwMDAwMFoYDzIxMDAwMTAxMDAwMDAwWjAzMTEwLwYDVQQDDChy
    b2xlbWVzaCBzaW11bGF0ZWQgZW5jbGF2ZXMsIG5vIGhhcmR3YXJlMHYwEAYHKoZI
    zj0CAQYFK4EEACIDYgAEpizmAgUDDv5fh98WvsDxMlStZd2FnV10miKEKcMGPUDQ
    zdqBIxMJT+u0X4ngmsPL1r/KWFvgKT8/4PfIAptK2sHngU6gNSheMr/U2HLLU6h5
    Vjrge/V/Ww1SbONWT97ro0IwQDAPBgNVHRMBAf8EBTADAQH/MA4GA1UdDwEB/wQE
    AwICBDAdBgNVHQ4EFgQUcYWw63dNUAIpFraVfWQG6gZeP60wCgYIKoZIzj0EAwMD
    aQAwZgIxAN3m56sUV0Go5LO0JQbjbMs/njshK31uJkhw5d+bGWA8rKeJGRLNqwqu
    Yp+uXy8m3wIxAInv6IUNWhggkGq4pabFxodZs5Yvc66mPtZjgKMSPk3ZoK9wLAkZ
    1jHPBhnx74ObAg==
    """
)


def compute_user_data(claim_id: bytes, output_digest: bytes) -> bytes:
    """What an enclave puts into its document's user data (32 bytes). The nonce is the request's id."""
    return hashlib.sha256(b"rolemesh/v1/tee\0" + claim_id + output_digest).digest()


@fast_dataclass(frozen=True)
class Tee:
    """Evidence: a document of an AWS Nitro enclave."""

    name: str = "tee"
    evidence_bytes_max: int = DOCUMENT_BYTES_MAX

    def describe(self) -> ProofDescription:
        return ProofDescription(
            shows="an AWS Nitro enclave with a measurement on the reader's list has bound this output to this request",
            does_not_show="that the listed image runs the model faithfully, that AWS and its hardware are honest, or "
            "that the certificates were not revoked",
        )

    def verify(self, context: ProofContext, evidence: bytes) -> str:
        """Which enclave it was. InvalidProof for anything but a document of this job that held at its deadline."""
        attested = _verify_job(context, evidence, AWS_ROOT)
        return (
            f"AWS Nitro enclave {attested.module} with PCR0 {attested.measurement.pcr0.hex()[:16]}… bound this output"
        )


@fast_dataclass(frozen=True)
class SimulatedTee:
    """Evidence: a document in Nitro's form, under a root whose private key is public."""

    name: str = "tee_simulated"
    evidence_bytes_max: int = DOCUMENT_BYTES_MAX

    def describe(self) -> ProofDescription:
        return ProofDescription(
            shows="on a test network, that documents are made and checked as those of real enclaves are",
            does_not_show="anything about hardware or the output: simulated, anyone can make such a document",
        )

    def verify(self, context: ProofContext, evidence: bytes) -> str:
        """That it is simulated. InvalidProof where no test network is known to be one, and as for `tee`."""
        if not context.trust.is_test_network:
            raise InvalidProof("a simulated enclave shows nothing outside a test network, and none is named here")
        attested = _verify_job(context, evidence, SIMULATED_ROOT)
        return f"simulated, not verified hardware: {attested.module} bound this output"


def _verify_job(context: ProofContext, evidence: bytes, root: bytes) -> Attested:
    receipt = context.receipt
    return verify_nitro(
        evidence,
        context.at_ms,
        root,
        context.trust.measurements,
        nonce=compute_request_id(context.request),
        user_data=compute_user_data(compute_claim_id(receipt.claim), receipt.output_digest),
    )


TEE = Tee()
TEE_SIMULATED = SimulatedTee()
