"""Peers as libp2p names them and as we do: the peer id of an Ed25519 key holds the key."""

from libp2p.peer.id import ID

ED25519_KEY_HEAD = bytes((0x08, 0x01, 0x12, 0x20))  # libp2p PublicKey message: type Ed25519, 32 bytes follow
ED25519_PEER_HEAD = bytes((0x00, 0x24)) + ED25519_KEY_HEAD  # its identity multihash


def to_peer(node: bytes) -> ID:
    """The libp2p peer id of a node key."""
    return ID(ED25519_PEER_HEAD + node)


def to_node(peer: ID) -> bytes:
    """The node key of an Ed25519 peer id; the host has no others."""
    return peer.to_bytes()[len(ED25519_PEER_HEAD) :]
