"""Writes are brought to the disk together, and what is published waits for those before it and for no others."""

import threading

import trio
import trio.testing

from roles.core_effects import NetPublish
from roles.group_sync import FOLD_S, GroupSync


def publish(name: bytes) -> NetPublish:
    return NetPublish("topic", name, "")


class Disk:
    """Syncs when it is let."""

    def __init__(self) -> None:
        self.syncs = 0
        self.sent: list[bytes] = []
        self.is_free = threading.Event()
        self.has_begun = threading.Event()
        self.folds = 0
        self.group = GroupSync(self.sync, self.fold, lambda effect: self.sent.append(effect.data))

    def fold(self) -> None:
        self.folds += 1

    def sync(self) -> None:
        self.has_begun.set()
        assert self.is_free.wait(10)
        self.syncs += 1


async def until(condition) -> None:
    while not condition():
        await trio.sleep(0.001)


def test_without_anything_written_publishing_waits_for_nothing():
    disk = Disk()

    disk.group.send(publish(b"head"))

    assert disk.sent == [b"head"]


def test_many_writes_share_a_sync_and_what_was_published_behind_them_keeps_its_order():
    async def main() -> None:
        disk = Disk()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(disk.group.run)
            for number in range(5):
                disk.group.note()
                disk.group.send(publish(bytes([number])))
            assert disk.sent == []
            disk.is_free.set()
            await until(lambda: len(disk.sent) == 5)
            assert (disk.syncs, disk.sent) == (1, [bytes([number]) for number in range(5)])
            await disk.group.close()
        assert disk.syncs == 1

    trio.run(main)


def test_what_is_written_while_the_disk_works_is_synced_anew_before_what_follows_it():
    async def main() -> None:
        disk = Disk()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(disk.group.run)
            disk.group.note()
            disk.group.send(publish(b"first"))
            await until(disk.has_begun.is_set)
            disk.group.send(publish(b"second"))  # behind the first write only, but its order counts
            disk.group.note()
            disk.group.send(publish(b"third"))
            disk.is_free.set()
            await until(lambda: disk.syncs == 1)
            assert b"third" not in disk.sent
            await until(lambda: len(disk.sent) == 3)
            assert (disk.syncs, disk.sent) == (2, [b"first", b"second", b"third"])
            await disk.group.close()

    trio.run(main)


def test_what_is_published_waits_for_the_disk_alone_and_what_comes_soon_after_shares_the_next_sync():
    synced, sent_s = [], []

    async def main() -> None:
        def sync() -> None:
            synced.append(True)
            trio.from_thread.run_sync(clock.jump, 0.02)

        def publish_at(effect: NetPublish) -> None:
            sent_s.append(round(trio.current_time() - began_s, 3))

        async def write_and_publish(at_s: float) -> None:
            await trio.sleep_until(began_s + at_s)
            group.note()
            group.send(publish(b"item"))

        group = GroupSync(sync, lambda: None, publish_at)
        began_s = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(group.run)
            async with trio.open_nursery() as writers:
                for at_s in (0.0, 0.025, 0.03, 0.2):
                    writers.start_soon(write_and_publish, at_s)
            await group.close()

    clock = trio.testing.MockClock(autojump_threshold=0.01)
    trio.run(main, clock=clock)
    assert (len(synced), sent_s) == (3, [0.02, 0.06, 0.06, 0.22])  # the disk rests from 0.02 to 0.04


def test_closing_leaves_nothing_unsynced_and_nothing_unsent():
    async def main() -> None:
        disk = Disk()
        disk.is_free.set()
        disk.group.note()
        disk.group.send(publish(b"last"))
        await disk.group.close()
        assert (disk.syncs, disk.sent, disk.group.is_clean) == (1, [b"last"], True)

    trio.run(main)


def test_what_was_written_is_brought_into_the_database_now_and_then_and_at_once_for_whoever_waits():
    async def main() -> None:
        disk = Disk()
        disk.is_free.set()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(disk.group.run)
            nursery.start_soon(disk.group.fold_now_and_then)
            for _ in range(20):
                disk.group.note()
                await trio.sleep(FOLD_S / 4)
            assert 3 <= disk.folds <= 6
            await trio.sleep(2 * FOLD_S)
            folds = disk.folds
            await trio.sleep(10 * FOLD_S)
            assert disk.folds == folds  # nothing new

            disk.group.note()
            await disk.group.settle()
            assert disk.folds == folds + 1
            disk.group.note()
            await disk.group.close()
            assert disk.folds == folds + 2

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.01))


def test_whoever_needs_the_database_waits_for_a_fold_that_is_under_way_and_may_leave_without_harm():
    async def main() -> None:
        disk, begun, is_free = Disk(), threading.Event(), threading.Event()
        disk.is_free.set()

        def fold() -> None:
            begun.set()
            assert is_free.wait(10)
            disk.folds += 1

        group = GroupSync(disk.sync, fold, lambda effect: None)
        async with trio.open_nursery() as nursery:
            group.note()
            nursery.start_soon(group.settle)
            await until(begun.is_set)
            with trio.move_on_after(0.05):
                await group.settle()
                raise AssertionError("it did not wait")
            assert disk.folds == 0
            nursery.cancel_scope.cancel()
            is_free.set()
        assert disk.folds == 1

    trio.run(main)
