"""What comes from peers into a store: checked, kept while it comes, pinned at the end, gone on with after a crash."""

from collections import deque

import pytest

from protocol.messages import WantedBlocks
from roles.block_server import read_blocks
from roles.gathering import Ask, Finish, Gathering, GiveUp, Keep, LookUp
from roles.store import store as store_module
from roles.store.checking import check
from roles.store.collecting import collect
from roles.store.exporting import export
from roles.store.importing import import_path
from roles.store.receiving import StoreDesk
from roles.store_effects import FOR_EVER, DropGathered, Kept, LookedUp, PinGathered, Pinned, ReadBlocks
from roles.store_effects import Keep as KeepEffect
from roles.store_effects import LookUp as LookUpEffect
from tests.roles.store.parts import block_files, make_tree, open_store, read_tree

TOKEN = "cid/1"


@pytest.fixture
def source(tmp_path):
    """A store that has a folder."""
    make_tree(tmp_path / "in")
    with open_store(tmp_path / "source") as store:
        yield store


@pytest.fixture
def root(source, tmp_path):
    return import_path(source, tmp_path / "in").root.cid


@pytest.fixture
def target(tmp_path):
    with open_store(tmp_path / "target") as store:
        yield store


class Fetch:
    """Gets a root out of one store into another, step by step; `asked` is what the first one was asked for."""

    def __init__(self, source, target, root):
        self.root = root
        self.asked = []
        self.desk = StoreDesk(lambda: target, source.files.read)
        self._gathering = Gathering(root)
        self._steps = deque(self._gathering.begin([bytes(32)]))

    def run(self, blocks_max=None):
        """Until the end, or until so many blocks were asked for; how it ended."""
        while blocks_max is None or len(self.asked) < blocks_max:
            step = self._steps.popleft()
            if isinstance(step, Finish | GiveUp):
                return step
            self._steps += self._take(step)
        return None

    def _take(self, step):
        match step:
            case LookUp(cids):
                found = self.desk.do(LookUpEffect(TOKEN, cids))
                assert isinstance(found, LookedUp)
                return self._gathering.on_looked_up(found.held, found.missing, found.error, 0)
            case Ask(number, _, digests):
                self.asked += digests
                found = self.desk.do(ReadBlocks("", digests, 2**21))
                answer = WantedBlocks(tuple(map(len, found.blocks)), b"".join(found.blocks), found.missing)
                return self._gathering.on_answer(number, answer, 0)
            case Keep(number, blocks):
                kept = self.desk.do(KeepEffect(TOKEN, number, blocks))
                assert isinstance(kept, Kept)
                return self._gathering.on_kept(number, kept.held, kept.bad, kept.error, 0)

    def pin(self):
        assert self.desk.do(PinGathered(TOKEN, self.root, "mine", FOR_EVER)) == Pinned(TOKEN)


def test_a_folder_comes_whole_is_pinned_and_can_be_written_out(source, target, root, tmp_path):
    fetch = Fetch(source, target, root)

    assert fetch.run() == Finish()
    fetch.pin()

    (pin,) = target.get_pins()
    (original,) = source.get_pins()
    assert pin[:1] + pin[2:4] == original[:1] + original[2:4]
    assert check(target).damaged == ()
    export(target, root, tmp_path / "out")
    assert read_tree(tmp_path / "out") == read_tree(tmp_path / "in")


def test_a_collection_takes_nothing_of_what_is_on_its_way(source, target, root):
    fetch = Fetch(source, target, root)
    fetch.run(blocks_max=4)

    assert collect(target).blocks == 0
    assert fetch.run() == Finish()
    fetch.pin()
    assert collect(target).blocks == 0
    assert check(target).damaged == ()


def test_after_a_crash_only_what_is_missing_is_asked_for(source, target, root):
    first = Fetch(source, target, root)
    first.run(blocks_max=5)
    here = len(block_files(target.files.folder.parent))

    # Nothing of the first try but what is on disk is known to the second.
    second = Fetch(source, target, root)
    assert second.run() == Finish()
    second.pin()

    assert here > 0
    assert len(second.asked) == len(block_files(source.files.folder.parent)) - here
    assert check(target).damaged == ()


def test_what_is_here_and_damaged_is_asked_for_again(source, target, root):
    first = Fetch(source, target, root)
    first.run()
    damaged = block_files(target.files.folder.parent)[0]
    damaged.write_bytes(b"torn")

    second = Fetch(source, target, root)
    assert second.run() == Finish()
    second.pin()

    assert [digest.hex() for digest in second.asked] == [damaged.name]
    assert check(target).damaged == ()


def test_bytes_that_do_not_fit_their_names_are_never_written(target, source, root):
    fetch = Fetch(source, target, root)
    (data,) = fetch.desk.do(ReadBlocks("", (root.digest,), 2**21)).blocks
    fetch.desk.do(LookUpEffect(TOKEN, (root,)))

    kept = fetch.desk.do(KeepEffect(TOKEN, 1, ((root, memoryview(data[:-1] + b"?")),)))

    assert kept == Kept(TOKEN, 1, (), (root,))
    assert block_files(target.files.folder.parent) == []


def test_what_is_larger_than_the_quota_is_refused_before_its_blocks_are_asked_for(source, root, tmp_path):
    with open_store(tmp_path / "small", bytes_max=2**20) as target:
        fetch = Fetch(source, target, root)
        ended = fetch.run()

        assert ended.reason.startswith("StoreFull: needs")
        assert fetch.asked == [root.digest]
        fetch.desk.do(DropGathered(TOKEN, is_hopeless=False))
        assert block_files(tmp_path / "small") == []


def test_on_a_full_disk_nothing_is_kept_and_the_reason_is_said(source, root, tmp_path):
    with open_store(tmp_path / "full", free_bytes_min=2**62) as target:
        fetch = Fetch(source, target, root)

        assert fetch.run().reason.startswith("DiskFull: ")
        assert block_files(tmp_path / "full") == []


def test_what_came_before_it_was_given_up_stays_for_the_next_try_for_an_hour(source, target, root, monkeypatch):
    fetch = Fetch(source, target, root)
    fetch.run(blocks_max=4)
    fetch.desk.do(DropGathered(TOKEN, is_hopeless=False))

    assert collect(target).blocks == 0
    later_ms = store_module.get_now_ms() + 3_600_001
    monkeypatch.setattr("roles.store.collecting.get_now_ms", lambda: later_ms)
    assert collect(target).blocks > 0
    assert block_files(target.files.folder.parent) == []


def test_an_answer_ends_before_it_would_be_too_large_and_says_what_is_not_there():
    blocks = {b"a" * 32: b"x" * 60, b"b" * 32: b"y" * 60}

    def read(digest):
        if digest not in blocks:
            raise store_module.MissingBlob(digest)
        return blocks[digest]

    found = read_blocks("t", (b"c" * 32, b"a" * 32, b"b" * 32, b"d" * 32), 100, read)

    assert (found.blocks, found.missing) == ((b"x" * 60,), (b"c" * 32,))
