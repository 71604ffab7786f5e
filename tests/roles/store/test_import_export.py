"""Files and folders go into a store and come out as they were, or an error says why and nothing is left behind."""

import io
import os
from pathlib import Path

import pytest

from protocol.cid import DAG_PB, RAW, Cid, compute_cid, read_cid
from protocol.dag_pb import Link, Node, encode_node, write_number
from protocol.errors import MalformedMessage, MissingBlob
from protocol.unixfs import FILE, FOLDER, TYPE_FIELD, make_leaf
from protocol.unixfs_nodes import DEPTH_MAX
from roles.blobs import DiskFull, StoreFull
from roles.store.checking import check
from roles.store.collecting import collect
from roles.store.errors import NotStorable
from roles.store.exporting import TargetExists, export, export_stream
from roles.store.importing import import_path, import_stream
from roles.store.index import FOR_EVER, Entry
from tests.roles.store.parts import block_files, make_tree, open_store, read_tree


@pytest.fixture
def store(tmp_path):
    with open_store(tmp_path) as store:
        yield store


def put_raw(store, data, codec=DAG_PB):
    """A block as a peer might hand it over, whatever it says."""
    cid = compute_cid(codec, data)
    put = store.index.begin_put(2**50)
    store.index.reserve(put, [Entry(cid, len(data))], 2**40, 2**50)
    store.files.write(put, cid.digest, data)
    return cid


def test_a_folder_goes_in_and_comes_out_as_it_was(store, tmp_path):
    contents = make_tree(tmp_path / "in")
    told = []

    imported = import_path(store, tmp_path / "in", tell=told.append)
    exported = export(store, imported.root.cid, tmp_path / "out")

    assert read_tree(tmp_path / "out") == contents
    assert (tmp_path / "out" / "sub" / "nothing").is_dir()
    size = sum(map(len, contents.values()))
    assert (imported.files, imported.root.content_bytes, exported.content_bytes) == (6, size, size)
    assert told == sorted(told)
    assert told[-1] == size
    (pin,) = store.get_pins()
    assert (pin.cid, pin.name, pin.content_bytes, pin.expires_ms) == (imported.root.cid, "in", size, FOR_EVER)
    assert check(store).damaged == ()


def test_what_is_here_already_is_not_written_again(store, tmp_path):
    make_tree(tmp_path / "in")
    first = import_path(store, tmp_path / "in")
    used = store.index.get_used_bytes()

    again = import_path(store, tmp_path / "in")

    assert again == first._replace(new_bytes=0)
    assert (
        store.index.get_used_bytes() == used == first.new_bytes == sum(f.stat().st_size for f in block_files(tmp_path))
    )


def test_bytes_are_on_disk_before_they_have_a_name_and_names_before_the_pin(store, tmp_path, monkeypatch):
    done = []
    sync, rename, end = os.fsync, os.rename, store.index.end_put

    def note_sync(handle):
        done.append(("sync", os.readlink(f"/proc/self/fd/{handle}")))
        sync(handle)

    def note_rename(source, target):
        done.append(("name", str(source), str(target)))
        rename(source, target)

    def note_end(*arguments):
        done.append(("pin",))
        end(*arguments)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "rename", note_rename)
    monkeypatch.setattr(store.index, "end_put", note_end)
    monkeypatch.setattr("roles.store.importing.WRITERS", 1)

    import_stream(store, io.BytesIO(os.urandom(3 * 2**20)))

    named = [step for step in done if step[0] == "name"]
    assert len(named) == 4
    assert done[-1] == ("pin",)
    for step in named:
        _, source, target = step
        at = done.index(step)
        assert ("sync", source) in done[:at]
        assert ("sync", str(Path(target).parent)) in done[at:]


def test_a_stream_is_one_file_and_comes_out_as_one(store):
    data = os.urandom(2 * 2**20 + 3)

    imported = import_stream(store, io.BytesIO(data), name="from a pipe")
    out = io.BytesIO()
    export_stream(store, imported.root.cid, out)

    assert out.getvalue() == data
    assert imported.root.content_bytes == len(data)


def test_hidden_entries_are_left_out_and_counted_unless_asked_for(store, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / ".secret").write_bytes(b"s")
    (tmp_path / "in" / "open").write_bytes(b"o")

    without = import_path(store, tmp_path / "in")
    whole = import_path(store, tmp_path / "in", with_hidden=True)

    assert (without.files, without.hidden, whole.files, whole.hidden) == (1, 1, 2, 0)
    assert without.root.cid != whole.root.cid


@pytest.mark.parametrize("kind", ["link", "link to folder", "pipe", "name"])
def test_what_is_neither_file_nor_folder_is_refused_by_name_and_nothing_is_kept(store, tmp_path, kind):
    make_tree(tmp_path / "in")
    target = tmp_path / "in" / "y-odd"
    if kind == "link":
        target.symlink_to("/etc/passwd")
    elif kind == "link to folder":
        target.symlink_to("/etc")
    elif kind == "pipe":
        os.mkfifo(target)
    else:
        os.close(os.open(os.fsencode(tmp_path / "in") + b"/y-\xff", os.O_CREAT, 0o644))

    with pytest.raises(NotStorable, match="y-"):
        import_path(store, tmp_path / "in")

    assert store.get_pins() == []
    assert block_files(tmp_path) == []
    assert store.index.get_used_bytes() == 0


def test_a_file_that_grows_while_it_is_read_is_not_stored(store, tmp_path):
    path = tmp_path / "log"
    path.write_bytes(bytes(2**20))

    def grow(content_bytes):
        with path.open("ab") as file:
            file.write(bytes(2**20))  # for ever, were all of it read

    with pytest.raises(NotStorable, match="changed while it was read"):
        import_path(store, path, tell=grow)


def test_a_quota_that_is_reached_says_so_and_makes_room_again(store, tmp_path):
    store.bytes_max = 3 * 2**20
    kept = import_stream(store, io.BytesIO(os.urandom(2**20)))

    with pytest.raises(StoreFull) as caught:
        import_stream(store, io.BytesIO(os.urandom(40 * 2**20)))

    assert caught.value.bytes_max == 3 * 2**20
    assert store.index.get_used_bytes() == 2**20
    assert len(block_files(tmp_path)) == 1
    assert check(store) == (1, 2**20, ())
    assert store.read(kept.root.cid)
    import_stream(store, io.BytesIO(os.urandom(2**20)))


def test_a_disk_without_room_refuses_the_put_keeps_the_rest_and_takes_the_next(store, tmp_path, monkeypatch):
    kept = import_stream(store, io.BytesIO(b"before"))
    real = os.fsync

    def fail(handle):
        if os.fstat(handle).st_size == 2**20:
            raise OSError(28, os.strerror(28))
        real(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(DiskFull, match="No space left"):
            import_stream(store, io.BytesIO(os.urandom(5 * 2**20)))

    assert store.read(kept.root.cid) == b"before"
    assert len(block_files(tmp_path)) == 1
    assert list((tmp_path / "store" / "tmp").iterdir()) == []
    import_stream(store, io.BytesIO(os.urandom(2**20)))


def test_a_put_leaves_the_node_the_room_its_ledger_needs(store):
    store.free_bytes_min = 2**60

    with pytest.raises(DiskFull, match="must stay free"):
        import_stream(store, io.BytesIO(b"data"))


def test_a_folder_of_thousands_of_entries_goes_in_and_comes_out(store, tmp_path):
    (tmp_path / "in" / "many").mkdir(parents=True)
    for number in range(4_800):
        (tmp_path / "in" / "many" / f"{number:012}").touch()

    root = import_path(store, tmp_path / "in").root.cid
    export(store, root, tmp_path / "out")

    assert read_tree(tmp_path / "out") == read_tree(tmp_path / "in")
    assert len(list((tmp_path / "out" / "many").iterdir())) == 4_800
    assert store.pin(root).content_bytes == 0


def test_what_exists_is_never_written_over(store, tmp_path):
    imported = import_stream(store, io.BytesIO(b"data"))
    (tmp_path / "there").write_bytes(b"mine")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")

    for name in ("there", "dangling"):
        with pytest.raises(TargetExists):
            export(store, imported.root.cid, tmp_path / name)

    assert (tmp_path / "there").read_bytes() == b"mine"
    assert not (tmp_path / "nowhere").exists()


def node(kind, links=(), more=b""):
    return encode_node(Node(tuple(links), write_number(TYPE_FIELD, kind) + more))


LEAF = make_leaf(b"evil")


def entry(name):
    return Link(LEAF.cid, name, 4)


HOSTILE = {
    "dot dot": node(FOLDER, [entry("..")]),
    "dot": node(FOLDER, [entry(".")]),
    "slash": node(FOLDER, [entry("../../evil")]),
    "absolute": node(FOLDER, [entry("/tmp/evil")]),
    "nul": node(FOLDER, [entry("a\0b")]),
    "no name": node(FOLDER, [entry("")]),
    "long": node(FOLDER, [entry("n" * 256)]),
    "twice": node(FOLDER, [entry("a"), entry("a")]),
    "unordered": node(FOLDER, [entry("b"), entry("a")]),
    "symlink": node(4, [], b"\x12\x0b/etc/passwd"),
    "shard": node(5),
    "unknown": node(9),
    "no type": encode_node(Node((), b"")),
    "not a node": b"\xff\xff\xff",
    "file without parts": node(FILE, [], write_number(3, 0)),
    "sizes that lie": node(FILE, [entry("")], write_number(3, 9) + write_number(4, 9)),
    "total that lies": node(FILE, [entry("")], write_number(3, 9) + write_number(4, 4)),
    "named part": node(FILE, [entry("x")], write_number(3, 4) + write_number(4, 4)),
    "too many parts": node(FILE, [entry("")] * 1_025, write_number(3, 4_100) + write_number(4, 4) * 1_025),
    "a folder as a part": node(
        FILE, [Link(compute_cid(DAG_PB, node(FOLDER)), "", 4)], write_number(3, 4) + write_number(4, 4)
    ),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_block_that_lies_is_refused_and_nothing_is_written(store, tmp_path, what):
    put_raw(store, LEAF.data, RAW)
    put_raw(store, node(FOLDER))
    cid = put_raw(store, HOSTILE[what])
    inside = put_raw(store, node(FOLDER, [Link(cid, "inside", 5)]))
    before = sorted(tmp_path.iterdir())

    for root in (cid, inside):
        with pytest.raises(MalformedMessage):
            export(store, root, tmp_path / "out")

    assert sorted(tmp_path.iterdir()) == before


def test_folders_inside_each_other_without_end_are_refused(store, tmp_path):
    cid = put_raw(store, node(FOLDER))
    for _ in range(DEPTH_MAX):
        cid = put_raw(store, node(FOLDER, [Link(cid, "d", 5)]))

    with pytest.raises(MalformedMessage, match="inside each other"):
        export(store, cid, tmp_path / "out")
    with pytest.raises(MalformedMessage):
        store.pin(cid)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "text", ["../../etc/passwd", "bafkrei/../x", "a" * 59, "b" + "a" * 58, "bafkrei\0", "", "BAFKREI" + "A" * 52]
)
def test_a_path_is_no_cid(text):
    with pytest.raises(MalformedMessage):
        read_cid(text)


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "gone"])
def test_a_damaged_block_is_never_handed_out_is_found_and_is_mended_by_another_put(store, tmp_path, damage):
    contents = make_tree(tmp_path / "in")
    root = import_path(store, tmp_path / "in").root.cid
    leaf = compute_cid(RAW, contents["sub/mib"])
    path = tmp_path / "store" / leaf.digest.hex()[:2] / leaf.digest.hex()
    data = contents["sub/mib"]
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes({"flip": b"\0" + data[1:], "cut": data[:-1], "empty": b""}[damage])

    with pytest.raises(MissingBlob):
        export(store, root, tmp_path / "out")
    found = check(store)
    collect(store)

    assert not (tmp_path / "out").exists()
    assert found.damaged == (leaf,)
    assert (tmp_path / "store" / "corrupt" / leaf.digest.hex()).exists() == (damage != "gone")
    import_path(store, tmp_path / "in")
    export(store, root, tmp_path / "out")
    assert read_tree(tmp_path / "out") == contents
    assert check(store).damaged == ()


def test_putting_a_file_again_mends_damage_that_nobody_has_read(store, tmp_path):
    data = os.urandom(1_000)
    cid = import_stream(store, io.BytesIO(data)).root.cid
    (path,) = block_files(tmp_path)
    path.write_bytes(bytes(1_000))

    again = import_stream(store, io.BytesIO(data))

    assert (again.root.cid, again.new_bytes) == (cid, 1_000)
    assert store.read(cid) == data
    assert list((tmp_path / "store" / "corrupt").iterdir()) == []


def test_below_a_damaged_node_everything_stays_for_when_it_is_mended(store, tmp_path):
    make_tree(tmp_path / "in")
    root = import_path(store, tmp_path / "in").root.cid
    count = len(block_files(tmp_path))
    (tmp_path / "store" / root.digest.hex()[:2] / root.digest.hex()).write_bytes(b"")

    with pytest.raises(MissingBlob):
        export(store, root, tmp_path / "out")
    collect(store)

    assert len(block_files(tmp_path)) == count - 1
    assert Cid(RAW, root.digest) in check(store).damaged
