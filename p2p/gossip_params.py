"""How this project's networks gossip, on real sockets and simulated alike: degrees, and how urgent each topic is."""

from p2p.gossipsub import GossipParams, TopicParams
from p2p.net import GOSSIP_BYTES_MAX

# What nodes run with, and what `rolemesh bench attack` tries. Smaller than the specification's: each step of degree is
# one more copy of everything for everyone. Half of a mesh are peers we dialled: those no stranger can choose for us.
PARAMS = GossipParams(degree=4, degree_low=3, degree_high=6, degree_score=3, degree_out=2, choke_after=64)

# What a topic carries, by the short name that begins it: the lower goes first when a peer is slow.
PRIORITIES = {"consensus": 0, "heads": 0, "proofs": 0, "claims": 1, "txs": 1, "oracle": 2, "infer": 2}
CHATTER = 3


def get_priority(topic: str) -> int:
    """How urgent a topic's messages are.

    >>> get_priority("/rolemesh/00/proofs/1"), get_priority("/rolemesh/00/node/1"), get_priority("/eth2/x")
    (0, 3, 3)
    """
    parts = topic.split("/")
    return PRIORITIES.get(parts[3], CHATTER) if len(parts) > 3 and parts[1] == "rolemesh" else CHATTER


def is_urgent(topic: str) -> bool:
    """Whether its messages overtake others where these wait: consensus, and what disputes and payments hang on."""
    return get_priority(topic) == 0


def build_topic_params(topic: str) -> TopicParams:
    """What counts on a topic of ours that nobody said anything special about."""
    return TopicParams(priority=get_priority(topic), data_bytes_max=GOSSIP_BYTES_MAX)
