"""Where messages travel: the topics and stream protocols of a chain, and what each carries.

A short name (`claims`, `infer/0`) is what roles say; on the network it stands between the chain and the version.
"""

from protocol.errors import LocalError, MalformedMessage
from protocol.registry import all_protocols, all_topics, register_protocol, register_topic

CHAIN_SIZE = 8
NAME_MAX = 128
SHARD_BITS_MAX = 16
PROOF_SHARD_BITS = 4  # of a worker's node key: a worker hears what verifiers say of its own claims, and of few others'
_PREFIX, _SUFFIX = "/rolemesh/", "/1"

ROLES = ("validator", "inference", "verifier", "oracle", "storage", "gateway", "client")

register_topic("node", frozenset({0x0001}), ROLES, "who is here: roles, models, price, load, addresses")
register_topic("infer", frozenset({0x0101}), ("inference",), "requests for the models of one shard")
register_topic("claims", frozenset({0x0102}), ("verifier",), "claims of finished work", is_pulled=True)
register_topic(
    "proofs",
    frozenset({0x0103}),
    ("inference",),
    "blind attestations of the claims of one shard's workers, those whose node keys begin with its four bits",
    is_pulled=True,
)
register_topic("oracle", frozenset({0x0104}), ("oracle",), "observations of one feed")
register_topic("txs", frozenset({0x0105}), ("validator",), "transactions on their way into a block", is_pulled=True)
register_topic("heads", frozenset({0x0106}), ROLES, "decided headers with their certificates")
register_topic(
    "consensus", frozenset({0x0301}), ("validator",), "what validators cannot tell enough of the others directly"
)

_REFUSED = frozenset({0x0204, 0x0205})  # every stream may say "accepted" or "refused"
register_protocol(
    "infer",
    frozenset({0x0103, 0x0201, 0x0202, 0x0203, 0x0206, 0x0240, 0x0243}) | _REFUSED,
    ("inference", "client"),
    "direct requests and cancellations; results, pieces of them, refusals and attestations on their way to the client",
    is_bare=True,
)
register_protocol(
    "blob", frozenset({0x0211, 0x0212, 0x0248, 0x0249}) | _REFUSED, ROLES, "blocks by digest", is_bare=True
)
register_protocol(
    "sync",
    frozenset({0x0102, 0x0103, 0x0105, 0x0221, 0x0222, 0x0223, 0x0224, 0x0225, 0x0226, 0x0227}) | _REFUSED,
    ROLES,
    "what gossip lost: blocks by height; claims, attestations and transactions by id, or whatever a filter misses",
)
register_protocol("proof", frozenset({0x0103, 0x0231, 0x0232}) | _REFUSED, ("verifier",), "openings of attestations")
register_protocol(
    "trace",
    frozenset({0x0233, 0x0234, 0x0235, 0x0236}) | _REFUSED,
    ("inference",),
    "what each operator of a worker's run gave, and what one of them took",
)
register_protocol(
    "consensus",
    frozenset({0x0301, 0x0302, 0x0303}) | _REFUSED,
    ("validator",),
    "proposals, votes and certificates, and bodies of proposed blocks",
    is_bare=True,
)
register_protocol("txs", frozenset({0x0105}) | _REFUSED, ("validator",), "transactions straight to a validator")
register_protocol("status", frozenset({0x0241, 0x0242}) | _REFUSED, ROLES, "what a node says of itself")

TOPICS = all_topics()  # short name up to the slash -> what it carries; extensions show up here too
PROTOCOLS = all_protocols()


def topic_name(chain: bytes, short: str) -> str:
    """The full name of a topic.

    >>> topic_name(bytes(8), "infer/0")
    '/rolemesh/0000000000000000/infer/0/1'
    """
    return _format(chain, short)


def protocol_name(chain: bytes, short: str) -> str:
    """The full name of a stream protocol. Same form as a topic's; the two never meet."""
    return _format(chain, short)


def parse_name(chain: bytes, name: str) -> str:
    """The short name of a topic or stream protocol of this chain. MalformedMessage when it is none."""
    short = name[len(_PREFIX) + 2 * CHAIN_SIZE + 1 : -len(_SUFFIX)]
    if not _is_short(short) or name != _format(chain, short):
        raise MalformedMessage(f"{name[:NAME_MAX]!r} is no topic of chain {chain.hex()}")
    return short


def compute_shard(name: bytes, bits: int) -> int:
    """The first `bits` bits of a model's digest, or of a worker's node key."""
    if not 0 <= bits <= SHARD_BITS_MAX or len(name) * 8 < SHARD_BITS_MAX:
        raise LocalError(f"a shard is {SHARD_BITS_MAX} bits of a digest at most")
    return int.from_bytes(name[: SHARD_BITS_MAX // 8]) >> (SHARD_BITS_MAX - bits)


def infer_topic(model: bytes, shard_bits: int = 0) -> str:
    """Short name of the topic on which a model is asked for.

    >>> infer_topic(bytes(32))
    'infer/0'
    """
    return f"infer/{compute_shard(model, shard_bits)}"


def proofs_topic(worker: bytes) -> str:
    """Short name of the topic on which the claims of the worker with this node key are attested.

    >>> proofs_topic(bytes([0b1111_0000]) * 32)
    'proofs/15'
    """
    return f"proofs/{compute_shard(worker, PROOF_SHARD_BITS)}"


def oracle_topic(feed: str) -> str:
    """Short name of a feed's topic."""
    return f"oracle/{feed}"


def _format(chain: bytes, short: str) -> str:
    if len(chain) != CHAIN_SIZE or not _is_short(short):
        raise LocalError(f"{short[:NAME_MAX]!r} on a chain of {len(chain)} bytes is no name of a topic")
    return f"{_PREFIX}{chain.hex()}/{short}{_SUFFIX}"


def _is_short(short: str) -> bool:
    return 0 < len(short) <= NAME_MAX and short.isascii() and short.isprintable() and " " not in short
