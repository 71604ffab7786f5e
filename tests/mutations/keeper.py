"""Whom to dial and when, and what is remembered. Issue 3, "A safe host"."""

from tests.mutations.mutation import Mutation

KEEPER = ("tests/p2p/test_keeper.py",)
LIBP2P_NET = ("tests/p2p/test_libp2p_net.py",)
DIRECT_AND_EXCHANGE = ("tests/p2p/test_direct_and_exchange.py",)
LIBP2P_NET_1 = ("tests/p2p/test_libp2p_net.py", "tests/p2p/test_guard.py")
CONFORMANCE = ("tests/p2p/test_conformance.py", "tests/p2p/test_libp2p_net.py", "tests/p2p/test_guard.py")
GUARD = ("tests/p2p/test_guard.py",)

MUTATIONS = (
    Mutation("p2p/keeper.py", "* (0.5 + self.dice.random())", "", KEEPER, "redials come with jitter"),
    Mutation("p2p/keeper.py", "float(1 << min(failures, 16))", "1.0", KEEPER, "redials come later and later"),
    Mutation("p2p/keeper.py", ", PAUSE_S_MAX) * (", ", 1e9) * (", KEEPER, "redials wait ten seconds at most"),
    Mutation(
        "p2p/keeper.py",
        "max(0, PEERS_WANTED - held, OUTBOUND_MIN - outbound, seeking)",
        "max(0, PEERS_WANTED - held, seeking)",
        KEEPER,
        "a minimum of connections are of our own choosing",
    ),
    Mutation(
        "p2p/keeper.py",
        "max(0, PEERS_WANTED - held, OUTBOUND_MIN - outbound, seeking)",
        "max(0, PEERS_WANTED - held, OUTBOUND_MIN - outbound)",
        KEEPER,
        "peers are sought for a topic nobody heard us on",
    ),
    Mutation(
        "p2p/keeper.py",
        "sum(not link.is_inbound for link in self._host.links())",
        "len(self._host.links())",
        LIBP2P_NET,
        "what strangers dialled is not taken for our own choice",
    ),
    Mutation(
        "p2p/keeper.py",
        "return peer not in self.always, sought.isdisjoint(entry.topics), entry.due_s, peer",
        "return peer not in self.always, False, entry.due_s, peer",
        KEEPER,
        "peers of the topic that is missed are dialled first",
    ),
    Mutation(
        "p2p/keeper.py",
        "return peer not in self.always, ",
        "return False, ",
        KEEPER,
        "direct peers are dialled first",
    ),
    Mutation("p2p/keeper.py", "if now_s - since_s < SEEK_S}", "}", KEEPER, "a topic is not sought for ever"),
    Mutation(
        "p2p/keeper.py",
        "seeking if held < PEERS_SOUGHT_MAX else 0",
        "seeking",
        KEEPER,
        "seeking ends when many are connected",
    ),
    Mutation(
        "p2p/keeper.py",
        ("entry.due_s = min(entry.due_s, now_s)\n        return True"),
        ("pass\n        return True"),
        KEEPER,
        "a publish nobody heard makes all redials due",
    ),
    Mutation(
        "p2p/keeper.py",
        "now_s - entry.since_s >= STABLE_S else entry.failures + 1",
        "True else 0",
        KEEPER,
        "a peer that keeps hanging up is dialled later and later",
    ),
    Mutation(
        "p2p/keeper.py",
        "if now_s - entry.since_s > FORGET_S and peer not in self.always:",
        "if False:",
        KEEPER,
        "a peer that stays silent is forgotten",
    ),
    Mutation(
        "p2p/keeper.py",
        ("and peer not in self.always:\n            del"),
        (":\n            del"),
        DIRECT_AND_EXCHANGE,
        "direct peers are never forgotten",
    ),
    Mutation(
        "p2p/keeper.py",
        "entry.reached_s is not None and now_s - entry.reached_s >= KNOWN_S",
        "entry.reached_s is not None",
        KEEPER,
        "a peer reached a moment ago is not known yet",
    ),
    Mutation("p2p/keeper.py", "if entry.reached_s is not None]", "]", KEEPER, "only peers we reached are remembered"),
    Mutation(
        "p2p/keeper.py",
        "entry.reached_s = now_s - KNOWN_S",
        "pass",
        KEEPER,
        "remembered peers are known in the next process",
    ),
    Mutation(
        "p2p/keeper.py",
        "elif any(link.node == peer and not link.is_inbound for link in self._host.links()):",
        "elif True:",
        LIBP2P_NET_1,
        "only our own dial shows that a peer is where it says",
    ),
    Mutation(
        "p2p/keeper.py",
        "return not self._is_refused(peer) and await",
        "return await",
        ("tests/p2p/test_guard.py::test_nobody_who_is_banned_is_dialled",),
        "nobody we banned is dialled",
    ),
    Mutation(
        "p2p/keeper.py",
        ("self.book.note_down(peer, trio.current_time())\n        self._wake.set()"),
        "self.book.note_down(peer, trio.current_time())",
        CONFORMANCE,
        "a lost peer is redialled without being asked",
    ),
    Mutation(
        "p2p/libp2p_net.py",
        "            self._keeper.hurry(topic)",
        "            pass",
        LIBP2P_NET,
        "a publish nobody heard has peers of its topic sought",
    ),
    Mutation(
        "p2p/libp2p_net.py",
        ("self._note_topics_of(peer)\n        self._gossip.drop"),
        "self._gossip.drop",
        LIBP2P_NET,
        "what a peer listened to is remembered when it goes",
    ),
    Mutation(
        "p2p/libp2p_net.py",
        ("for peer in self.peers():\n            self._note_topics_of(peer)\n        return"),
        "return",
        GUARD,
        "what peers listen to is remembered over restarts",
    ),
    Mutation(
        "p2p/libp2p_net.py",
        ("self._keeper.note_topics(peer, topics)\n\n    def penalise"),
        ("pass\n\n    def penalise"),
        LIBP2P_NET,
        "what adverts say about topics is remembered",
    ),
)
