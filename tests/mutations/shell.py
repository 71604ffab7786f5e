"""Packets in and out, publish, slow verdicts. Issue 3, "The shell" and "Verdicts"."""

from tests.mutations.mutation import Mutation

GOSSIP_SHELL = ("tests/p2p/test_gossip_shell.py",)
SIGNATURES = ("tests/p2p/test_signature_checks.py",)
INBOX = ("tests/roles/test_timers_and_inbox.py",)
SLOW_CHECKS = ("tests/p2p/test_slow_checks.py",)

MUTATIONS = (
    Mutation(
        "p2p/signature_checks.py",
        "lane = self._urgent if self._is_urgent(effect.topic) else self._others",
        "lane = self._others",
        SIGNATURES,
        "votes do not wait for the signatures of transactions",
    ),
    Mutation(
        "p2p/signature_checks.py",
        "                lane.begun.popleft()\n            if time.perf_counter() > until_s:\n                break\n",
        "                lane.begun.popleft()\n",
        SIGNATURES,
        "a slice ends by the clock while verdicts are concluded",
    ),
    Mutation(
        "p2p/signature_checks.py",
        "return MESSAGE_BYTES + len(effect.data)",
        "return MESSAGE_BYTES",
        SIGNATURES,
        "what waits of a peer is counted by its size",
    ),
    Mutation(
        "roles/inbox.py",
        "can_wait = isinstance(event, Delivered) and not is_urgent(event.topic)",
        "can_wait = False",
        INBOX,
        "votes do not wait behind transactions",
    ),
    Mutation(
        "roles/inbox.py",
        "or self._in_a_row >= URGENT_IN_A_ROW",
        "",
        INBOX,
        "what can wait does not wait for ever",
    ),
    Mutation(
        "p2p/outgoing.py",
        ("else:\n                counts.dropped += 1"),
        ("else:\n                pass"),
        GOSSIP_SHELL,
        "a message a full queue sheds is counted",
    ),
    Mutation(
        "p2p/outgoing.py",
        "                sent += 1\n",
        "                sent += 2\n",
        GOSSIP_SHELL,
        "publish says for how many peers it queued",
    ),
    Mutation(
        "p2p/outgoing.py",
        "if outbox is not None and outbox.push(waiting, effect.priority):",
        "if outbox is not None and (outbox.push(waiting, effect.priority) or True):",
        GOSSIP_SHELL,
        "publish does not count whom it could not queue for",
    ),
    Mutation(
        "p2p/outgoing.py",
        "outbox.push(waiting, effect.priority)",
        "outbox.push(waiting, 3)",
        GOSSIP_SHELL,
        "each topic's urgency reaches the queue",
    ),
    Mutation(
        "p2p/gossip_params.py",
        "TopicParams(priority=get_priority(topic), ",
        "TopicParams(",
        GOSSIP_SHELL,
        "each topic has its urgency",
    ),
    Mutation(
        "p2p/incoming.py", "self._do(Blamed(node, MALFORMED))", "pass", GOSSIP_SHELL, "a bad frame counts as behaviour"
    ),
    Mutation(
        "p2p/incoming.py",
        'self._on_fault(node, f"malformed gossip packet: {inbound.fault}")',
        "pass",
        GOSSIP_SHELL,
        "a bad frame is a fault of its sender",
    ),
    Mutation(
        "p2p/gossip.py",
        "ResetStream: lambda effect: self._incoming.end_stream(effect.peer),",
        "ResetStream: lambda effect: None,",
        GOSSIP_SHELL,
        "a packet that is none costs the stream",
    ),
    Mutation(
        "p2p/outgoing.py",
        "if outbox.idle_beats > WRITE_BEATS_MAX:",
        "if False:",
        (
            "tests/p2p/attacks/test_stream_attacks.py::test_a_peer_that_reads_no_gossip_holds_up_nobody_and_loses_the_stream",
        ),
        "who reads no gossip loses the stream",
    ),
    Mutation(
        "p2p/inbound.py",
        "if self._framer.beats > PACKET_BEATS_MAX:",
        "if False:",
        ("tests/p2p/test_gossip.py::test_a_packet_that_never_becomes_whole_ends_its_stream",),
        "a packet that has begun must end",
    ),
    Mutation(
        "p2p/inbound.py",
        "kept = max(0, self._held - AHEAD_BYTES)",
        "kept = 0",
        GOSSIP_SHELL,
        "a peer may be ahead of us by so much and no more",
    ),
    Mutation(
        "p2p/incoming.py",
        "for _ in range(PACKETS_IN_A_ROW):",
        "while True:",
        GOSSIP_SHELL,
        "one peer's packets do not keep the next one's waiting",
    ),
    Mutation(
        "p2p/incoming.py",
        "if time.perf_counter() > until_s:",
        "if False:",
        GOSSIP_SHELL,
        "what peers sent is worked off for a bounded time per turn",
    ),
    Mutation(
        "p2p/gossip.py",
        ("if not self._has_room():\n                return None"),
        ("if False:\n                return None"),
        GOSSIP_SHELL,
        "while the node is behind no message is judged",
    ),
    Mutation(
        "p2p/libp2p_net.py",
        "return self._delivered_waiting < DELIVERED_MAX",
        "return True",
        GOSSIP_SHELL,
        "accepted messages waiting for the node are bounded",
    ),
    Mutation(
        "p2p/libp2p_net.py",
        ("        if isinstance(event, Delivered):\n            self._delivered_waiting -= 1"),
        "        pass",
        GOSSIP_SHELL,
        "what was handed over makes room",
    ),
    Mutation(
        "p2p/incoming.py",
        'inbound.end("the peer is refused")',
        "pass",
        GOSSIP_SHELL,
        "a banned peer is no longer heard",
    ),
    Mutation(
        "p2p/gossip.py",
        (
            "            except Exception:  # a bug of ours that this message brought out: the message "
            "is lost, the node is not"
        ),
        "            except KeyError:",
        ("tests/p2p/test_gossip.py::test_a_check_that_fails_loses_its_message_and_not_the_node",),
        "a check that raises loses its message and not the node",
    ),
    Mutation(
        "p2p/outgoing.py",
        ("outbox.clear()\n                    self._on_renewed(node)"),
        "self._on_renewed(node)",
        GOSSIP_SHELL,
        "control for an old stream is not sent on the new one",
    ),
    Mutation(
        "p2p/outgoing.py",
        "                    self._on_renewed(node)\n",
        "                    pass\n",
        GOSSIP_SHELL,
        "on a new stream everything is told again",
    ),
    Mutation(
        "p2p/slow_checks.py",
        "with trio.move_on_after(self._patience_s):",
        "with trio.move_on_after(3_600):",
        SLOW_CHECKS,
        "a verdict that takes too long is given up",
    ),
    Mutation(
        "p2p/slow_checks.py",
        "for _ in range(VALIDATORS):",
        "for _ in range(1_000):",
        SLOW_CHECKS,
        "only so many verdicts are sought at once",
    ),
    Mutation(
        "p2p/slow_checks.py",
        "for _ in range(VALIDATORS):",
        "for _ in range(1):",
        SLOW_CHECKS,
        "one slow verdict does not hold up the others",
    ),
    Mutation(
        "p2p/slow_checks.py", "self._note_error(topic)", "pass", SLOW_CHECKS, "a slow check that raises is counted"
    ),
    Mutation(
        "p2p/slow_checks.py",
        "except Exception:  # a bug",
        "except KeyError:  # a bug",
        SLOW_CHECKS,
        "a slow check that raises loses its message and not the node",
    ),
    Mutation(
        "p2p/gossip.py",
        "Subscribe(topic, None, self._get_params(topic))",
        "Subscribe(topic, lambda *_: Verdict.ACCEPT, self._get_params(topic))",
        GOSSIP_SHELL,
        "a topic with slow verdicts waits for them",
    ),
    Mutation(
        "p2p/outgoing.py",
        "stream.flush()",
        "pass",
        ("tests/p2p/test_gossip.py::test_a_burst_of_a_thousand_arrives_whole",),
        "what has gathered is sent at the end of each turn",
    ),
)
