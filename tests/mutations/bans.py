"""Faults, bans, and what is remembered of them. Issue 3, "A safe host"."""

from tests.mutations.mutation import Mutation

BANS = ("tests/p2p/test_bans.py",)
GUARD = ("tests/p2p/test_guard.py",)
DIRECT_AND_EXCHANGE = ("tests/p2p/test_direct_and_exchange.py",)

MUTATIONS = (
    Mutation(
        "p2p/bans.py",
        "return float(amount * 2.0 ** (-max(0, now_ms - since_ms) / HALF_LIFE_MS))",
        "return float(amount)",
        BANS,
        "faults fade",
    ),
    Mutation(
        "p2p/bans.py",
        "now_ms < found.until_ms and node not in self._allowed",
        "node not in self._allowed",
        BANS,
        "bans end by themselves",
    ),
    Mutation(
        "p2p/bans.py",
        "inherits = place is not None and now_ms < place.until_ms and not is_known",
        "inherits = False",
        BANS,
        "new keys from a banned peer's place inherit its ban",
    ),
    Mutation(
        "p2p/bans.py",
        "now_ms < place.until_ms and not is_known",
        "now_ms < place.until_ms",
        BANS,
        "known peers at a place inherit nothing",
    ),
    Mutation(
        "p2p/bans.py",
        "ends_ms = now_ms + min(for_ms, INHERIT_MS_MAX)",
        "ends_ms = now_ms + for_ms",
        BANS,
        "new keys inherit a ban for ten minutes at most",
    ),
    Mutation(
        "p2p/bans.py",
        "strikes = 1 + max(of_place, own.count_strikes(now_ms) if own is not None else 0)",
        "strikes = 1",
        BANS,
        "who does it again waits longer",
    ),
    Mutation(
        "p2p/bans.py",
        "strikes = 1 + max(of_place, own.",
        "strikes = 1 + (own.",
        BANS,
        "keys of one place share their repetitions",
    ),
    Mutation(
        "p2p/bans.py",
        "return max(0, self.strikes - max(0, now_ms - self.until_ms) // STRIKE_MS)",
        "return self.strikes",
        BANS,
        "repetitions are forgiven in peace",
    ),
    Mutation(
        "p2p/bans.py",
        'return "banned" if place.strikes >= PLACE_STRIKES else ""',
        'return ""',
        BANS,
        "three banned keys shut their place",
    ),
    Mutation(
        "p2p/bans.py",
        "if place and not self._trust.is_trusted(",
        "if place and not (lambda _: False)(",
        BANS,
        "at trusted places each key answers for itself",
    ),
    Mutation(
        "p2p/bans.py",
        ('if self.is_allowed(node, place.partition("/")[0]):\n            return []'),
        ("if False:\n            return []"),
        BANS,
        "whom the operator allows is not banned for faults",
    ),
    Mutation(
        "p2p/bans.py",
        ('if self.is_banned(node, now_ms):\n            return "banned"\n        if self.is_allowed'),
        "if self.is_allowed",
        BANS,
        "a ban by hand of a key stands over an allowed address",
    ),
    Mutation(
        "p2p/bans.py",
        "until_ms = max(ends_ms, at_place.until_ms if at_place is not None else 0)",
        "until_ms = ends_ms",
        BANS,
        "one more ban at a place never shortens the place's",
    ),
    Mutation(
        "p2p/bans.py",
        'until_ms = min(int(found["until_ms"]), now_ms + BY_HAND_MS_MAX)',
        'until_ms = int(found["until_ms"])',
        BANS,
        "a clock that has gone back makes no ban endless",
    ),
    Mutation("p2p/bans.py", 'return {"bans": alive,', 'return {"bans": {},', BANS, "bans outlive the process"),
    Mutation(
        "p2p/bans.py",
        '"allowed": [_write(subject) for subject in self._allowed]}',
        '"allowed": []}',
        BANS,
        "what the operator allowed outlives the process",
    ),
    Mutation(
        "p2p/bans.py",
        ("or self._trust.is_trusted(address):\n            return []"),
        (":\n            return []"),
        BANS,
        "failed handshakes at trusted places shut nobody out",
    ),
    Mutation(
        "p2p/bans.py",
        "if self._add_fault(place, FAULT, now_ms) < BANNED_AT:",
        "if True:",
        BANS,
        "ten handshakes that come to nothing shut their place",
    ),
    Mutation(
        "p2p/bans.py",
        "compute_ban_ms(1 + strikes - PLACE_STRIKES)",
        "compute_ban_ms(1)",
        BANS,
        "a place that goes on failing is shut for longer",
    ),
    Mutation(
        "p2p/guard.py",
        "VIOLATION if is_violation else FAULT",
        "FAULT",
        ("tests/p2p/test_guard.py::test_what_no_implementation_does_weighs_more_than_what_a_busy_one_may",),
        "what no implementation does weighs more than a slow frame",
    ),
    Mutation(
        "p2p/guard.py", "self._tasks.start_soon(self._host.hang_up, node)", "pass", GUARD, "whom we ban we hang up on"
    ),
    Mutation(
        "p2p/guard.py",
        '"standing": self.bans.to_json(self.now_ms()), ',
        "",
        GUARD,
        "bans go into what the next process is given",
    ),
    Mutation(
        "p2p/guard.py", 'if "standing" in memory:', "if False:", GUARD, "bans are taken over from the last process"
    ),
    Mutation(
        "p2p/guard.py", "if node not in self._direct:", "if True:", DIRECT_AND_EXCHANGE, "faults ban no direct peer"
    ),
    Mutation(
        "p2p/guard.py",
        "return node in self._direct or self._keeper",
        "return self._keeper",
        DIRECT_AND_EXCHANGE,
        "direct peers are known at the door",
    ),
    Mutation(
        "p2p/guard.py",
        "and not self.bans.is_allowed(link.node, link.address)",
        "",
        GUARD,
        "an allowed peer stays when its network is banned",
    ),
)
