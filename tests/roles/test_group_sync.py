"""Writes are brought to the disk together, and what is published waits for those before it and for no others."""

import threading

import trio

from roles.core_effects import NetPublish
from roles.group_sync import GroupSync


def publish(name: bytes) -> NetPublish:
    return NetPublish("topic", name, "")


class Disk:
    """Syncs when it is let."""

    def __init__(self) -> None:
        self.syncs = 0
        self.sent: list[bytes] = []
        self.is_free = threading.Event()
        self.has_begun = threading.Event()
        self.group = GroupSync(self.sync, lambda effect: self.sent.append(effect.data))

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


def test_closing_leaves_nothing_unsynced_and_nothing_unsent():
    async def main() -> None:
        disk = Disk()
        disk.is_free.set()
        disk.group.note()
        disk.group.send(publish(b"last"))
        await disk.group.close()
        assert (disk.syncs, disk.sent, disk.group.is_clean) == (1, [b"last"], True)

    trio.run(main)
