"""Streams: how many, how fast, how much they hold, by when they end. Issue 3, "A safe host"."""

from tests.mutations.mutation import Mutation

STREAM_LIMITS = ("tests/p2p/test_stream_limits.py",)
STREAMS = ("tests/p2p/test_streams.py",)
ENDS = ("tests/p2p/test_stream_ends.py",)

MUTATIONS = (
    Mutation(
        "p2p/stream_limits.py",
        "if self._open[node, protocol] >= OPEN_MAX:",
        "if False:",
        STREAM_LIMITS,
        "one peer has only so many streams of one protocol open",
    ),
    Mutation(
        "p2p/stream_limits.py",
        (
            "        if self._open[node, protocol] >= OPEN_MAX:\n"
            "            return False\n"
            "        self._open[node, protocol] += 1"
        ),
        (
            "        node = bytes(32)\n"
            "        if self._open[node, protocol] >= OPEN_MAX:\n"
            "            return False\n"
            "        self._open[node, protocol] += 1"
        ),
        STREAM_LIMITS,
        "each peer has its own share of streams",
    ),
    Mutation(
        "p2p/stream_limits.py",
        (
            "        if self._open[node, protocol] >= OPEN_MAX:\n"
            "            return False\n"
            "        self._open[node, protocol] += 1"
        ),
        (
            "        protocol = ''\n"
            "        if self._open[node, protocol] >= OPEN_MAX:\n"
            "            return False\n"
            "        self._open[node, protocol] += 1"
        ),
        STREAM_LIMITS,
        "each protocol has its own share of streams",
    ),
    Mutation(
        "p2p/host_streams.py",
        "self._limits.end(node, protocol)",
        "pass",
        STREAM_LIMITS,
        "a stream that ended is no longer counted",
    ),
    Mutation(
        "p2p/host_streams.py",
        "if not self._limits.begin(node, protocol):",
        "if self._limits.begin(node, protocol) is None:",
        (
            "tests/p2p/test_doors.py::test_a_peer_with_its_share_of_streams_open_gets_no_more_and_one_that_floods_is_at_fault",
        ),
        "the host asks whether a peer has its share of streams",
    ),
    Mutation(
        "p2p/host_streams.py",
        "if self._limits.is_too_fast(",
        "if False and self._limits.is_too_fast(",
        (
            "tests/p2p/test_doors.py::test_a_peer_with_its_share_of_streams_open_gets_no_more_and_one_that_floods_is_at_fault",
        ),
        "who opens streams too fast is at fault",
    ),
    Mutation(
        "p2p/stream_limits.py",
        "(now_s - since_s) * PER_S",
        "0",
        STREAM_LIMITS,
        "streams may be opened at a steady rate for ever",
    ),
    Mutation(
        "p2p/stream_limits.py",
        "left = min(BURST, left + (now_s - since_s) * PER_S)",
        "left = left + (now_s - since_s) * PER_S",
        STREAM_LIMITS,
        "silence saves up no more than one burst of streams",
    ),
    Mutation(
        "p2p/stream_limits.py",
        "if len(self._buckets) >= PEERS_MAX:",
        "if False:",
        STREAM_LIMITS,
        "rates are remembered of so many peers",
    ),
    Mutation(
        "p2p/ping.py",
        "if left < 0:",
        "if False:",
        (
            "tests/p2p/attacks/test_stream_attacks.py::test_garbage_on_any_stream_protocol_costs_its_sender_the_connection",
        ),
        "pings have a rate",
    ),
    Mutation(
        "p2p/negotiation.py",
        "for _ in range(NAMES_MAX):",
        "while True:",
        ("tests/p2p/test_negotiation.py",),
        "a stream asks for only so many protocols",
    ),
    Mutation(
        "p2p/negotiation.py",
        "with trio.fail_after(NEGOTIATE_S):",
        "with trio.fail_after(3_600):",
        ("tests/p2p/test_negotiation.py",),
        "a stream's protocol is chosen within seconds",
    ),
    Mutation(
        "p2p/streams.py",
        "if self._held.get(wire.peer, 0) >= PER_PEER_MAX or held",
        "if held",
        STREAMS,
        "one peer has only so many requests waiting",
    ),
    Mutation(
        "p2p/streams.py",
        "held_bytes > PER_PEER_BYTES_MAX",
        "False",
        STREAMS,
        "one peer's requests hold only so many bytes",
    ),
    Mutation(
        "p2p/streams.py",
        "        self._held_bytes[wire.peer] = held_bytes\n",
        "        self._held_bytes[wire.peer] = held_bytes - header.length\n",
        STREAMS,
        "a request counts before its body is here",
    ),
    Mutation(
        "p2p/streams.py",
        "            asking.end()\n",
        "",
        STREAMS,
        "a request that never became whole is no longer counted",
    ),
    Mutation(
        "p2p/frame_stream.py",
        "if self._waiting[self.peer] + len(body) > OUT_BYTES_MAX:",
        "if False:",
        STREAMS,
        "only so much waits to be sent to one peer",
    ),
    Mutation(
        "p2p/streams.py",
        'asked.wire.push(REFUSAL, asked.number, b"busy: you do not read what waits for you")',
        "pass",
        STREAMS,
        "an answer there is no room for is refused, not lost",
    ),
    Mutation(
        "p2p/streams.py",
        "self._open[token].until_s <= now_s:",
        "False:",
        STREAMS,
        "a question nobody answers is forgotten",
    ),
    Mutation(
        "p2p/streams.py", "or len(self._under_way) >= REQUESTS_MAX or", "or", STREAMS, "our own requests are bounded"
    ),
    Mutation(
        "p2p/streams.py",
        'self._end(heapq.heappop(self._deadlines)[1], "timeout: no answer in time")',
        "heapq.heappop(self._deadlines)",
        STREAMS,
        "a request ends when its time is up",
    ),
    Mutation(
        "p2p/streams.py",
        "        if self._deadlines[0][1] == token:\n            self._wake.set()",
        "        pass",
        STREAMS,
        "a request that is due before all others is looked after in time",
    ),
    Mutation(
        "p2p/streams.py",
        "        if header.kind not in (ASK, TELL):",
        "        if False:",
        STREAMS,
        "only requests come on a stream its sender opened",
    ),
    Mutation(
        "p2p/frame_stream.py",
        "self._due_s = trio.current_time() + FRAME_S",
        "self._due_s = math.inf",
        STREAMS,
        "a frame that has begun must end",
    ),
    Mutation(
        "p2p/frame_stream.py",
        "                self._due_s = math.inf\n",
        "                pass\n",
        ENDS,
        "each frame has its own time",
    ),
    Mutation(
        "p2p/frame_stream.py",
        "if self._out and now_s >= self._moving_since_s + STALL_S_MAX:",
        "if False:",
        ENDS,
        "a peer that takes nothing loses its stream",
    ),
    Mutation(
        "p2p/frame_stream.py",
        "        if not self._out:\n            self._moved",
        "        if math.isinf(self._moving_since_s):\n            self._moved",
        ENDS,
        "a stream on which nothing waits may stay open",
    ),
    Mutation(
        "p2p/streams.py",
        "self._fault(wire.peer, ended.fault, ended.is_violation)",
        "self._fault(wire.peer, ended.fault, False)",
        STREAMS,
        "a frame against the rules is a violation",
    ),
    Mutation(
        "p2p/streams.py",
        "self._fault(wire.peer, ended.fault, ended.is_violation)",
        "self._fault(wire.peer, ended.fault, True)",
        STREAMS,
        "a slow frame is no violation",
    ),
    Mutation(
        "p2p/streams.py",
        (
            "for token in [token for token, asked in self._open.items() if asked.wire is wire]:\n"
            "                self._close(token)"
        ),
        "pass",
        STREAMS,
        "questions of a stream that ended are forgotten",
    ),
    Mutation(
        "p2p/frames.py",
        "if header.kind > TELL or header.length > STREAM_BYTES_MAX:",
        "if header.kind > TELL:",
        STREAMS,
        "lengths are checked before a body is read",
    ),
)
