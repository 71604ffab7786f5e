"""Verdicts that take their time: a few at once, none for ever, and a check with a bug costs its message alone."""

from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from p2p.gossipsub import Judged, Validate
from p2p.slow_checks import VALIDATORS, SlowChecks
from protocol.types import Verdict

TOPIC = "t"
PATIENCE_S = 5.0


@asynccontextmanager
async def running(check):
    """Checks at work; `verdicts` are those given so far, by ticket, `errors` topics whose check raised."""
    verdicts, errors = {}, []

    def answer(judged: Judged) -> None:
        verdicts.update(judged.verdicts)

    checks = SlowChecks(answer, errors.append, PATIENCE_S)
    checks.by_topic[TOPIC] = check
    async with trio.open_nursery() as nursery:
        nursery.start_soon(checks.run)
        yield SimpleNamespace(checks=checks, verdicts=verdicts, errors=errors)
        nursery.cancel_scope.cancel()


def run(main: Callable[[], Awaitable[None]]) -> None:
    """On virtual time that jumps on when nothing else is to be done."""
    trio.run(main, clock=MockClock(autojump_threshold=0))


def queue(checks, *numbers, topic=TOPIC):
    for number in numbers:
        checks.queue(Validate(number, topic, b"%d" % number, b"forwarder"))


def test_a_verdict_is_what_the_check_says_of_topic_data_and_forwarder():
    async def check(topic, data, forwarder):
        assert (topic, forwarder) == (TOPIC, b"forwarder")
        await trio.sleep(1)
        return Verdict.REJECT if data == b"2" else Verdict.ACCEPT

    async def main():
        async with running(check) as state:
            queue(state.checks, 1, 2, 3)
            await wait_all_tasks_blocked()
            assert state.verdicts == {}
            await trio.sleep(2)
            assert state.verdicts == {1: Verdict.ACCEPT, 2: Verdict.REJECT, 3: Verdict.ACCEPT}

    run(main)


def test_as_many_verdicts_are_sought_at_once_as_there_are_validators_and_the_rest_waits_in_order():
    under_way = []

    async def check(topic, data, forwarder):
        under_way.append(data)
        await trio.sleep(1)
        return Verdict.ACCEPT

    async def main():
        async with running(check) as state:
            queue(state.checks, *range(2 * VALIDATORS))
            await wait_all_tasks_blocked()
            assert under_way == [b"%d" % number for number in range(VALIDATORS)]
            assert len(state.checks) == VALIDATORS
            await trio.sleep(3)
            assert under_way == [b"%d" % number for number in range(2 * VALIDATORS)]
            assert len(state.checks) == 0

    run(main)


def test_one_verdict_that_hangs_is_given_up_and_holds_nobody_else_up():
    async def check(topic, data, forwarder):
        if data == b"0":
            await trio.sleep_forever()
        return Verdict.ACCEPT

    async def main():
        async with running(check) as state:
            queue(state.checks, *range(10))
            await wait_all_tasks_blocked()
            assert state.verdicts == dict.fromkeys(range(1, 10), Verdict.ACCEPT)
            await trio.sleep(2 * PATIENCE_S)
            assert state.verdicts[0] is Verdict.IGNORE
            assert state.errors == []

    run(main)


def test_a_check_that_raises_is_counted_and_loses_its_message_alone():
    async def check(topic, data, forwarder):
        await trio.sleep(0.1)
        if data == b"0":
            raise ZeroDivisionError
        return Verdict.ACCEPT

    async def main():
        async with running(check) as state:
            queue(state.checks, 0, 1)
            await trio.sleep(1)
            assert state.verdicts == {0: Verdict.IGNORE, 1: Verdict.ACCEPT}
            assert state.errors == [TOPIC]

    run(main)


def test_a_message_of_a_topic_that_was_left_meanwhile_is_ignored():
    async def check(topic, data, forwarder):
        return Verdict.ACCEPT

    async def main():
        async with running(check) as state:
            queue(state.checks, 1, topic="left")
            await wait_all_tasks_blocked()
            assert state.verdicts == {1: Verdict.IGNORE}

    run(main)
