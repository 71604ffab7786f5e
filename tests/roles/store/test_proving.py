"""What an audit needs of a store: read, hashed, shown; and pins of leases beside those of people."""

import pytest

from protocol.audit import draw_pieces, verify_answer
from protocol.cid import RAW, compute_cid
from protocol.errors import MissingBlob
from roles.store.importing import import_path
from roles.store.proving import Prover
from roles.store.receiving import StoreDesk
from roles.store_effects import FOR_EVER, LookUp, PinGathered, Prove, Unpin
from tests.roles.store.parts import block_files, make_tree, open_store

BYTES_MAX = 2**30


@pytest.fixture
def store(tmp_path):
    make_tree(tmp_path / "in")
    with open_store(tmp_path / "store") as found:
        yield found


@pytest.fixture
def root(store, tmp_path):
    """A folder that is in the store, and pinned by nobody."""
    done = import_path(store, tmp_path / "in").root.cid
    store.unpin(done)
    return done


@pytest.fixture
def desk(store):
    return StoreDesk(lambda: store, store.files.read)


def test_what_is_read_for_an_audit_stands_under_the_root_it_comes_with(desk, root):
    contents = desk.do(Prove("a", root, BYTES_MAX, ())).contents
    drawn = draw_pieces(bytes(32), bytes(32), bytes(32), contents.pieces)

    proven = desk.do(Prove("b", root, BYTES_MAX, drawn))

    assert (proven.token, proven.error, proven.contents) == ("b", "", contents)
    verify_answer(contents, drawn, proven.answer)


@pytest.mark.parametrize("how", ["gone", "damaged", "too large"])
def test_what_is_not_here_whole_is_not_shown(desk, root, tmp_path, how):
    size_bytes = desk.do(Prove("a", root, BYTES_MAX, ())).contents.size_bytes
    files = block_files(tmp_path / "store")
    if how == "gone":
        files[0].unlink()
    elif how == "damaged":
        files[0].write_bytes(files[0].read_bytes() + b"x")

    proven = desk.do(Prove("b", root, size_bytes - (how == "too large"), ()))

    assert (proven.contents, proven.answer) == (None, ())
    assert proven.error.startswith("TooLarge" if how == "too large" else "MissingBlob")


def test_numbers_that_no_piece_has_are_passed_over(store, root):
    proven = Prover(store.read).prove(Prove("a", root, BYTES_MAX, (0, 10**9)))
    assert len(proven.answer) == 1


def test_an_audit_reads_what_it_asks_for_and_a_measurement_everything(store, root):
    read = []

    def note(cid):
        read.append(cid)
        return store.read(cid)

    prover = Prover(note)
    first = prover.prove(Prove("a", root, BYTES_MAX, ()))
    whole = len(read)
    assert whole > 2
    read.clear()
    assert prover.prove(Prove("b", root, BYTES_MAX, (0, 1))).contents == first.contents
    assert len(read) == 2
    read.clear()
    prover.prove(Prove("c", root, BYTES_MAX, ()))
    assert len(read) == whole


def test_only_so_many_trees_are_remembered(store, root, tmp_path):
    (tmp_path / "other").write_bytes(b"x" * 5_000)
    other = import_path(store, tmp_path / "other").root.cid
    read = []

    def note(cid):
        read.append(cid)
        return store.read(cid)

    prover = Prover(note, pieces_max=1)
    for cid in (root, other):
        prover.prove(Prove("a", cid, BYTES_MAX, (0,)))
    read.clear()
    prover.prove(Prove("b", other, BYTES_MAX, (0,)))
    assert len(read) == 1
    prover.prove(Prove("c", root, BYTES_MAX, (0,)))
    assert len(read) > 3


def test_what_is_kept_for_a_lease_alone_is_let_go_with_it(desk, store, root):
    desk.do(LookUp("t", (root,)))
    desk.do(PinGathered("t", root, "leased", FOR_EVER))
    assert [pin.name for pin in store.get_pins()] == ["leased"]
    assert store.get_used_bytes()

    desk.do(Unpin(root, "leased"))
    desk.do(Unpin(root, "leased"))

    assert store.get_pins() == []
    assert store.get_used_bytes() == 0  # or ended leases would fill it for good


def test_what_somebody_has_pinned_under_a_name_stays_theirs(desk, store, root):
    store.pin(root, "holiday")
    desk.do(LookUp("t", (root,)))
    desk.do(PinGathered("t", root, "leased", FOR_EVER - 1))

    desk.do(Unpin(root, "leased"))

    (pin,) = store.get_pins()
    assert (pin.name, pin.expires_ms) == ("holiday", FOR_EVER)


def test_nothing_is_proven_of_what_was_never_here(desk):
    proven = desk.do(Prove("a", compute_cid(RAW, b"elsewhere"), BYTES_MAX, ()))
    assert proven.error.startswith(MissingBlob.__name__)
