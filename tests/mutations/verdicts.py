"""What becomes of messages. Issue 3, "Verdicts"."""

from tests.mutations.mutation import Mutation

ROUTER = ("tests/p2p/gossipsub/test_router.py",)
ROUTER_1 = ("tests/p2p/gossipsub/test_router.py", "tests/p2p/gossipsub/test_floods.py")

MUTATIONS = (
    Mutation(
        "p2p/gossipsub/messages.py",
        ("            self._reject(peer, topic)\n        elif standing"),
        ("            pass\n        elif standing"),
        ROUTER,
        "copies of a rejected message count against their senders",
    ),
    Mutation(
        "p2p/gossipsub/messages.py",
        ("        elif verdict is Verdict.REJECT:\n            self._note("),
        ("        elif False:\n            self._note("),
        ROUTER,
        "a rejected message counts against its sender",
    ),
    Mutation(
        "p2p/gossipsub/messages.py",
        ("        if verdict is Verdict.ACCEPT:\n            sighting = self._note("),
        ("        if verdict is not Verdict.REJECT:\n            sighting = self._note("),
        ROUTER,
        "an ignored message goes nowhere",
    ),
    Mutation(
        "p2p/gossipsub/messages.py",
        ("            if verdict is None:\n                counts.throttled += 1\n                return"),
        ("            if verdict is None:\n                verdict = Verdict.IGNORE"),
        ROUTER,
        "a message there is no room for may come again",
    ),
    Mutation(
        "p2p/gossipsub/messages.py",
        "len(self._waiting) >= params.validations_max or ",
        "",
        ROUTER,
        "verdicts under way are bounded in all",
    ),
    Mutation(
        "p2p/gossipsub/messages.py",
        " or peer.validations >= params.validations_per_peer_max:",
        ":",
        ROUTER,
        "verdicts under way are bounded per peer",
    ),
    Mutation(
        "p2p/gossipsub/messages.py",
        ("            topic.counts.throttled += 1\n            return\n        if self._lazy"),
        ("            return\n        if self._lazy"),
        ROUTER,
        "messages let go for want of room are counted",
    ),
    Mutation(
        "p2p/gossipsub/messages.py",
        "        peer.validations -= 1\n",
        "",
        ROUTER,
        "a verdict makes room for its peer's next message",
    ),
    Mutation(
        "p2p/gossipsub/messages.py",
        "if self._waiting[ticket].due_ms > self._state.now_ms:",
        "if True:",
        ROUTER,
        "verdicts that never come expire",
    ),
    Mutation(
        "p2p/gossipsub/messages.py",
        ("for sender in (peer, *others):\n                self._reject(sender, topic)"),
        "self._reject(peer, topic)",
        ROUTER,
        "a late reject is held against all who sent it",
    ),
    Mutation(
        "p2p/gossipsub/messages.py",
        "peers = [node for node in peers if node not in sighting.peers]",
        "pass",
        ROUTER,
        "who sent a copy while the verdict was awaited is not sent one",
    ),
    Mutation(
        "p2p/gossipsub/messages.py",
        "peers = [node for node in targets if node != source]",
        "peers = list(targets)",
        ROUTER,
        "a message is not sent back to whom it came from",
    ),
    Mutation(
        "p2p/gossipsub/messages.py",
        "if len(data) > topic.params.data_bytes_max:",
        "if False:",
        ROUTER,
        "a message that is too large is refused",
    ),
    Mutation(
        "p2p/gossipsub/messages.py",
        ("        if topic.is_signed and not self._is_author_proven(peer, topic, message):\n            return\n"),
        "",
        ROUTER,
        "signatures of signed topics are checked",
    ),
    Mutation(
        "p2p/gossipsub/messages.py",
        "elif message[2:] != (None, None, None, None):",
        "elif False:",
        ROUTER,
        "nobody signs on an unsigned topic",
    ),
    Mutation(
        "p2p/gossipsub/messages.py",
        "direct = [node for node in subscribers if node in self._state.direct]",
        "direct = []",
        ROUTER,
        "direct peers get everything",
    ),
    Mutation(
        "p2p/gossipsub/packets.py",
        "read_slice(packet, peer.packet_at, params.slice_messages, params.slice_bytes, known)",
        "read_slice(packet, peer.packet_at, 10**9, 10**9, known)",
        ROUTER_1,
        "large packets are worked off in slices",
    ),
)
