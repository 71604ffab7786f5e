"""Dialling back, announcing, and serving only once reachable. Issue 3, "A safe host"."""

from tests.mutations.mutation import Mutation

REACH = ("tests/p2p/test_reach.py",)
WATCH = ("tests/roles/test_watch.py",)
DIRECT_AND_EXCHANGE = ("tests/p2p/test_direct_and_exchange.py",)
PRESENCE = ("tests/roles/test_presence.py",)
WATCH_1 = ("tests/roles/test_watch.py", "roles/equipment.py")
CONFIG = ("tests/roles/test_config.py",)
COMMANDS = ("tests/testnet/cli/test_commands.py",)
CORE = ("tests/roles/test_core.py",)

MUTATIONS = (
    Mutation(
        "p2p/dialback.py", "if address[0] != observed:", "if False:", REACH, "nobody can have us dial somebody else"
    ),
    Mutation(
        "p2p/dialback.py",
        "if self._busy >= AT_ONCE_MAX or now_s",
        "if now_s",
        REACH,
        "only so many are dialled back at once",
    ),
    Mutation(
        "p2p/dialback.py",
        ' or now_s - self._served.get(place, float("-inf")) < PER_PLACE_S:',
        ":",
        REACH,
        "one place is dialled back only so often",
    ),
    Mutation(
        "p2p/dialback.py",
        "with trio.fail_after(READ_S):",
        "with trio.fail_after(3_600):",
        REACH,
        "who asks to be dialled has to say where, soon",
    ),
    Mutation(
        "p2p/dialback.py",
        "with trio.move_on_after(ANSWER_S):",
        "with trio.move_on_after(3_600):",
        REACH,
        "a peer that does not answer is given up",
    ),
    Mutation(
        "p2p/reach.py",
        "if len(self._failures) >= CONFIRMATIONS:",
        "if self._failures:",
        REACH,
        "one peer that cannot dial us proves nothing",
    ),
    Mutation(
        "p2p/reach.py",
        ("if self._failures:\n            self.state = Reach.UNREACHABLE"),
        ("if False:\n            self.state = Reach.UNREACHABLE"),
        REACH,
        "a node nobody can dial knows it",
    ),
    Mutation(
        "p2p/reach.py",
        "self._start_round(now_s + AGAIN_S)",
        'self._start_round(float("inf"))',
        REACH,
        "a reachable node makes sure again",
    ),
    Mutation(
        "p2p/reach.py",
        "PAUSE_S_MIN * 2.0 ** min(self._rounds_failed - 1, 8)",
        "PAUSE_S_MIN",
        REACH,
        "an unreachable node asks later and later",
    ),
    Mutation("p2p/reach.py", "if peer not in self._asked]", "]", REACH, "nobody is asked twice in a round"),
    Mutation(
        "p2p/libp2p_net.py",
        "tasks.start_soon(net._dialback.run)",
        "pass",
        REACH,
        "reachability is found out by dialling back",
    ),
    Mutation(
        "p2p/libp2p_net.py",
        "return self._options.announce or ",
        "return ",
        REACH,
        "what is announced is what the operator says",
    ),
    Mutation("p2p/libp2p_net.py", "if not is_wildcard(text))", ")", WATCH, "a wildcard is announced to nobody"),
    Mutation(
        "p2p/libp2p_net.py",
        "host.announce(self.announced)",
        "pass",
        DIRECT_AND_EXCHANGE,
        "identify tells where we are announced",
    ),
    Mutation(
        "roles/presence.py",
        "is_serving = self.is_bonded(state) and self.is_findable",
        "is_serving = self.is_bonded(state)",
        PRESENCE,
        "a node nobody can dial does not say it serves",
    ),
    Mutation(
        "roles/presence.py",
        "return bool(self._names) and self.is_findable and is_own",
        "return bool(self._names) and is_own",
        PRESENCE,
        "a node nobody can dial does not register",
    ),
    Mutation(
        "roles/presence.py",
        "return self._is_reachable or not self._names",
        "return self._is_reachable",
        PRESENCE,
        "nobody has to find a client",
    ),
    Mutation(
        "roles/presence.py",
        "self._is_reachable = is_reachable or not self._must_be_reachable",
        "self._is_reachable = True",
        PRESENCE,
        "a node that has become unreachable serves no more",
    ),
    Mutation(
        "roles/equipment.py",
        "dial_back=must_be_reachable(config),",
        "dial_back=False,",
        WATCH,
        "a node asks to be dialled back",
    ),
    Mutation("roles/equipment.py", "announce=config.announce,", "", WATCH, "--announce reaches the network"),
    Mutation(
        "roles/equipment.py",
        "addresses=net.announced,",
        "addresses=net.addresses,",
        WATCH,
        "adverts say what is announced",
    ),
    Mutation(
        "roles/equipment.py",
        "for text in config.announce or (config.listen,))",
        "for text in (config.listen,))",
        WATCH_1,
        "who announces a public address must be reachable there",
    ),
    Mutation(
        "roles/equipment.py",
        "limits=HostLimits(trusted=config.trusted),",
        "",
        WATCH,
        "networks the operator trusts reach the doors",
    ),
    Mutation(
        "roles/config.py",
        "or not all(is_dialable(text) for text in config.announce)",
        "",
        CONFIG,
        "what nobody could dial is not announced",
    ),
    Mutation(
        "testnet/cli/node.py",
        "bad = next((text for text in announce if not is_dialable(text)), None)",
        "bad = None",
        COMMANDS,
        "--announce with what nobody could dial is an error",
    ),
    Mutation(
        "roles/node.py",
        '(log.warning if reach["state"] == Reach.UNREACHABLE else log.info)("node.reach", **reach)',
        "pass",
        WATCH,
        "the log says that nobody can dial the node",
    ),
    Mutation(
        "roles/core.py",
        ("out += [ce.NetLearn(peer, known) for peer, known in self.settings.bootstrap if peer != self._node]"),
        "pass",
        CORE,
        "a network file's addresses are dialled",
    ),
    Mutation(
        "roles/core.py",
        "return [ce.NetLearn(sender, message.addresses, topics)]",
        "return []",
        CORE,
        "signed adverts tell where peers are",
    ),
    Mutation(
        "roles/core.py",
        "topics = tuple(topic_name(self.settings.chain, topic) for topic in list_topics(sender, message))",
        "topics = ()",
        CORE,
        "adverts tell what peers listen to",
    ),
)
