"""What waits to be sent to a peer. Issue 3, "The shell"."""

from tests.mutations.mutation import Mutation

OUTBOX = (
    "tests/p2p/test_outbox.py",
    "tests/p2p/test_gossip.py::test_a_queue_is_bounded_in_bytes_and_gossip_about_messages_is_shed_before_messages",
    "tests/p2p/test_gossip.py::test_whatever_is_pushed_leaves_by_priority_then_age",
)

MUTATIONS = (
    Mutation(
        "p2p/outbox.py",
        ("        for queue in self._queues:\n            while queue:"),
        ("        for queue in reversed(self._queues):\n            while queue:"),
        OUTBOX,
        "the most urgent leaves first",
    ),
    Mutation(
        "p2p/outbox.py",
        ("            if queue:\n                break"),
        ("            if False:\n                break"),
        OUTBOX,
        "what is less urgent never overtakes",
    ),
    Mutation(
        "p2p/outbox.py",
        ("if not self._shed_below(priority):\n                return False"),
        "return False",
        OUTBOX,
        "the least urgent makes room",
    ),
    Mutation(
        "p2p/outbox.py",
        "for queue in reversed(self._queues[priority + 1 :]):",
        "for queue in reversed(self._queues[priority:]):",
        OUTBOX,
        "nothing makes room for what is no more urgent",
    ),
    Mutation(
        "p2p/outbox.py",
        "for queue in reversed(self._queues[priority + 1 :]):",
        "for queue in self._queues[priority + 1 :]:",
        OUTBOX,
        "the least urgent is shed before the less urgent",
    ),
    Mutation(
        "p2p/outbox.py",
        "packet, counts = queue.pop()",
        "packet, counts = queue.popleft()",
        OUTBOX,
        "the newest is shed, the oldest goes on",
    ),
    Mutation("p2p/outbox.py", "counts.dropped += 1", "pass", OUTBOX, "what is shed is counted"),
    Mutation(
        "p2p/outbox.py",
        "while self._count >= MESSAGES_MAX or self._size + size > BYTES_MAX:",
        "while self._count >= MESSAGES_MAX:",
        OUTBOX,
        "a queue is bounded in bytes",
    ),
    Mutation(
        "p2p/outbox.py",
        "while self._count >= MESSAGES_MAX or self._size",
        "while self._size",
        OUTBOX,
        "a queue is bounded in messages",
    ),
    Mutation(
        "p2p/outbox.py",
        "or (is_gossip and 2 * self._size > BYTES_MAX)",
        "",
        OUTBOX,
        "no IHAVE is added to a queue that is half full",
    ),
    Mutation(
        "p2p/outbox.py",
        "limit = GOSSIP_BYTES_MAX if is_gossip else CONTROL_BYTES_MAX",
        "limit = CONTROL_BYTES_MAX",
        OUTBOX,
        "IHAVE is shed before GRAFT and PRUNE",
    ),
    Mutation(
        "p2p/outbox.py",
        "if self._control_size + len(body) > limit or (",
        "if (",
        OUTBOX,
        "control waiting for a peer is bounded",
    ),
    Mutation(
        "p2p/outbox.py",
        "if len(self._subscriptions) + len(fields) > CONTROL_BYTES_MAX:",
        "if False:",
        OUTBOX,
        "subscriptions waiting for a peer are bounded",
    ),
    Mutation(
        "p2p/outbox.py",
        "if total and total + len(packet) > WRITE_BYTES_MAX:",
        "if total:",
        OUTBOX,
        "several messages leave in one RPC",
    ),
    Mutation(
        "p2p/outbox.py",
        "if total and total + len(packet) > WRITE_BYTES_MAX:",
        "if False:",
        OUTBOX,
        "an RPC has a size others take",
    ),
    Mutation(
        "p2p/outbox.py",
        "self._begun.clear()\n        self._subscriptions.clear()",
        "self._subscriptions.clear()",
        OUTBOX,
        "on a new stream nothing is sent from the middle",
    ),
)
