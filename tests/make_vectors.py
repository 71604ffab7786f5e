"""Write the golden bytes in tests/vectors: `python -m tests.make_vectors`.

They are made from the types alone, so that they change exactly when something on the wire does, and
`tests/protocol/test_vectors.py` fails until they are made anew. Every message and every other type that `protocol` can
write is there twice, empty and full, with its value spelt out for other languages.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from protocol.codec import encode
from protocol.content import compute_digest, format_cid
from protocol.envelope import Envelope, compute_envelope_id, decode_envelope, seal
from protocol.jobs import (
    Claim,
    InferenceRequest,
    compute_attestation,
    compute_claim_id,
    compute_commitment,
    compute_request_id,
)
from protocol.keys import PrivateKey, format_account, format_node
from protocol.registry import EXTENSION_KIND_MIN, MessageKind, all_messages
from protocol.signing import compute_signing_bytes, sign
from protocol.tensor import Tensor, compute_tensor_digest, compute_tensors_digest, encode_tensors
from protocol.topics import compute_shard, protocol_name, topic_name
from tests.support.from_types import find_all_types, make_sample, spell, to_json

VECTORS = Path(__file__).parent / "vectors"
CHAIN = bytes.fromhex("0123456789abcdef")
SEED = bytes(range(32))
KEY = PrivateKey.from_seed(SEED)
SAMPLES = {"empty": False, "full": True}


def build_vectors() -> dict[str, Any]:
    """What each file in tests/vectors holds."""
    ours = [kind for kind in all_messages() if kind.kind < EXTENSION_KIND_MIN]
    messages = {kind.type for kind in ours}
    others = [cls for cls in find_all_types() if cls not in messages and cls is not Envelope]
    return {
        "messages.json": [_describe_message(kind, name) for kind in ours for name in SAMPLES],
        "objects.json": [_describe_object(cls, name) for cls in others for name in SAMPLES],
        "names.json": _describe_names(),
    }


def format_vectors(vectors: Any) -> str:
    """The text of one file."""
    return json.dumps(vectors, indent=1, ensure_ascii=False) + "\n"


def _describe_message(kind: MessageKind, sample: str) -> dict[str, Any]:
    value = make_sample(kind.type, SAMPLES[sample], kind.type.__name__)
    body = encode(value)
    wire = seal(KEY, CHAIN, kind.kind, boot=2, seq=300, time_ms=1_700_000_000_000, body=body)
    return {
        "kind": f"0x{kind.kind:04x}",
        "name": kind.name,
        "type": spell(kind.type),
        "sample": sample,
        "value": to_json(value),
        "body": body.hex(),
        "envelope": wire.hex(),
        "envelope_id": compute_envelope_id(decode_envelope(wire, CHAIN, len(wire))).hex(),
    }


def _describe_object(cls: type, sample: str) -> dict[str, Any]:
    value = make_sample(cls, SAMPLES[sample], cls.__name__)
    signed = {}
    if _is_signed(cls):
        value = sign(value, KEY)
        signed = {"domain": cls.DOMAIN, "signing_bytes": compute_signing_bytes(value).hex()}  # type: ignore[attr-defined]
    return {"type": spell(cls), "sample": sample, "value": to_json(value), "bytes": encode(value).hex(), **signed}


def _is_signed(cls: type) -> bool:
    return hasattr(cls, "DOMAIN") and [*cls.__annotations__][-1] == "signature"


def _describe_names() -> dict[str, Any]:
    tensor = Tensor("float32", (1, 2), bytes.fromhex("0000803f00000080"))
    request = make_sample(InferenceRequest, True, "InferenceRequest")
    claim = make_sample(Claim, True, "Claim")
    digest = hashlib.sha256(b"blob").digest()
    return {
        "seed": SEED.hex(),
        "public": KEY.public.hex(),
        "node": format_node(KEY.public),
        "account": format_account(KEY.public),
        "blob": b"blob".hex(),
        "cid": format_cid(compute_digest(b"blob")),
        "tensor": {"dtype": tensor.dtype, "shape": list(tensor.shape), "data": tensor.data.hex()},
        "tensor_digest": compute_tensor_digest(tensor).hex(),
        "tensors_digest": compute_tensors_digest((tensor,)).hex(),
        "tensors_blob": encode_tensors((tensor,)).hex(),
        "request": encode(request).hex(),
        "request_id": compute_request_id(request).hex(),
        "claim": encode(claim).hex(),
        "claim_id": compute_claim_id(claim).hex(),
        "commitment": compute_commitment(bytes(32), digest).hex(),
        "attestation": compute_attestation(bytes(32), KEY.public, digest).hex(),
        "chain": CHAIN.hex(),
        "topic": topic_name(CHAIN, "infer/0"),
        "protocol": protocol_name(CHAIN, "blob"),
        "shard_of_eight_bits": compute_shard(digest, 8),
    }


if __name__ == "__main__":
    for file, content in build_vectors().items():
        (VECTORS / file).write_text(format_vectors(content), encoding="utf-8")
