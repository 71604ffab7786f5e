"""What gossip lost is found. Issue 3, "Lossy by nature, complete in the end"."""

from tests.mutations.mutation import Mutation

PULL = ("tests/roles/test_pull.py",)
PULL_1 = ("tests/sim/test_pull.py",)

MUTATIONS = (
    Mutation("roles/pull.py", "self._new.add(peer)", "pass", PULL, "who has just connected is asked for everything"),
    Mutation(
        "roles/pull.py",
        "if self._asked is not None or not self._turns or not is_synced:",
        "if self._asked is not None or not self._turns:",
        PULL,
        "nobody asks before it follows the ledger",
    ),
    Mutation("roles/pull.py", "if self._asked is not None or not", "if not", PULL, "one question at a time"),
    Mutation(
        "roles/pull.py", "if count >= ANSWERS_PER_PEER_MAX or sum", "if sum", PULL, "one peer is answered only so often"
    ),
    Mutation(
        "roles/pull.py",
        "or sum(self._answers.values()) >= ANSWERS_MAX:",
        ":",
        PULL,
        "all together are answered only so often",
    ),
    Mutation("roles/pull.py", "if topic not in asked.topics:", "if False:", PULL, "only what was asked for is taken"),
    Mutation(
        "roles/pull.py",
        ("        if verdict is Verdict.REJECT:\n            return reason"),
        ("        if False:\n            return reason"),
        PULL,
        "what every honest peer would refuse is held against its bringer",
    ),
    Mutation(
        "roles/pull.py",
        "out += self._ask(peer, now_ms) if message.left else self._hurry(now_ms)",
        "out += self._hurry(now_ms)",
        PULL,
        "who has more is asked again at once",
    ),
    Mutation(
        "roles/backlog.py",
        "while len(self._kept) > KEPT_MAX or self.size_bytes > KEPT_BYTES_MAX:",
        "while False:",
        PULL,
        "what is kept for others is bounded",
    ),
    Mutation("roles/backlog.py", "if size_bytes > ANSWER_BYTES_MAX:", "if False:", PULL, "an answer is bounded"),
    Mutation(
        "roles/core.py",
        'self._puller.keep_own(self._shorten(item.topic) or "", item.data, now_ms)',
        "pass",
        PULL_1,
        "what this node says can be pulled from it",
    ),
    Mutation(
        "roles/core.py",
        "out += self._desk.hand_out(seam.Received(pulled.sender, pulled.message, pulled.topic))",
        "pass",
        PULL_1,
        "roles hear what was pulled",
    ),
    Mutation(
        "roles/core.py",
        "if isinstance(message, Missed) and message.tip > self.ledger.height:",
        "if False:",
        PULL_1,
        "heads that gossip lost are found by height",
    ),
)
