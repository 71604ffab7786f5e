"""Names of files and folders are those that IPFS tools compute: vectors of theirs, and rules of the format."""

import hashlib
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from hypothesis import given
from hypothesis import strategies as st

from protocol.cid import DAG_PB, RAW, Cid, compute_cid
from protocol.dag_pb import Link, Node, decode_node, encode_node, write_number
from protocol.errors import MalformedMessage
from protocol.shards import compute_name_hash, format_place, write_places
from protocol.unixfs import (
    CHUNK_BYTES,
    FileBuilder,
    Root,
    link_entries,
    link_parts,
    make_leaf,
)
from protocol.unixfs_nodes import list_entries, read_unixfs

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "unixfs.json").read_text("utf-8"))
PUBLISHED = VECTORS["published"]
ALPHABET = "abcdefghijklmnopqrstuvwxyz01234567890-_"


def make_content(seed, size):
    blocks = (hashlib.sha256(seed.encode() + n.to_bytes(8)).digest() for n in range(-(-size // 32)))
    return b"".join(blocks)[:size]


def open_stream(seed):
    """Kubo's deterministic reader, as its tests have it."""
    return Cipher(algorithms.ChaCha20(hashlib.sha256(seed.encode()).digest(), bytes(16)), mode=None).encryptor()


def add_file(data):
    return add_leaves(make_leaf(data[at : at + CHUNK_BYTES]) for at in range(0, len(data), CHUNK_BYTES))


def add_leaves(leaves):
    builder = FileBuilder()
    for leaf in leaves:
        builder.add(leaf)
    return builder.finish()[0]


def add_tree(entries):
    """A folder of [path, seed, size], the way an importer does it: the deepest first."""
    tree = {}
    for path, seed, size in entries:
        *folders, name = path.rstrip("/").split("/")
        inside = tree
        for folder in folders:
            inside = inside.setdefault(folder, {})
        inside[name] = {} if path.endswith("/") else add_file(make_content(seed, size))
    return link_tree(tree)


def link_tree(tree):
    return link_entries({name: link_tree(below) if isinstance(below, dict) else below for name, below in tree.items()})[
        0
    ]


@pytest.mark.parametrize("vector", VECTORS["files"], ids=lambda vector: str(vector["size"]))
def test_a_file_has_the_name_that_ipfs_tools_give_it(vector):
    root = add_file(make_content(vector["seed"], vector["size"]))

    assert (str(root.cid), root.dag_bytes, root.content_bytes) == (vector["cid"], vector["tsize"], vector["size"])


@pytest.fixture(scope="module")
def fills():
    """Leaves of the vectors' large files, hashed once; their bytes no longer matter, only how many they are."""
    some = bytes(CHUNK_BYTES)
    return [make_leaf(bytes((number,)) * CHUNK_BYTES)._replace(data=some) for number in range(251)]


@pytest.mark.parametrize("vector", VECTORS["fills"], ids=lambda vector: str(vector["size"]))
def test_a_file_of_more_than_1024_leaves_has_too(vector, fills):
    count, rest = divmod(vector["size"], CHUNK_BYTES)
    leaves = [fills[number % 251] for number in range(count)]
    leaves += [make_leaf(bytes((count % 251,)) * rest)] if rest else []

    root = add_leaves(leaves)

    assert (str(root.cid), root.dag_bytes, root.content_bytes) == (vector["cid"], vector["tsize"], vector["size"])


FOLDERS = [
    pytest.param(vector, marks=[pytest.mark.full] if vector.get("count", 0) > 6_000 else [], id=vector["name"])
    for vector in VECTORS["folders"]
]


@pytest.mark.parametrize("vector", FOLDERS)
def test_folders_nested_and_divided_ones_have_too(vector):
    if "count" in vector:
        root = link_entries({f"file-{n:06}": add_file(bytes((n % 256,))) for n in range(vector["count"])})[0]
    else:
        root = add_tree(vector["entries"])

    assert (str(root.cid), root.dag_bytes) == (vector["cid"], vector["tsize"])


def test_what_the_specification_publishes_holds():
    names = open_stream("hamt-unixfs-v1-2025")
    letters = ["".join(ALPHABET[byte % 39] for byte in names.update(bytes(11))) for _ in range(4_765)]
    last = "".join(ALPHABET[byte % 39] for byte in names.update(bytes(22)))

    root, (block,) = link_entries(dict.fromkeys([*letters, last[:21]], add_file(b"x")))
    over, blocks = link_entries(dict.fromkeys([*letters, last], add_file(b"x")))

    assert str(root.cid) == PUBLISHED["folder_at_threshold"]
    assert len(block.data) == 262_144
    assert str(over.cid) == PUBLISHED["folder_over_threshold"]
    assert over.content_bytes == root.content_bytes == 4_766
    assert len(blocks) > 200
    assert str(add_file(b"hello world").cid) == PUBLISHED["hello_world"]
    assert str(link_entries({})[0].cid) == PUBLISHED["empty_folder"]


@pytest.mark.full
def test_what_the_specification_publishes_of_files_of_a_gibibyte_holds():
    stream = open_stream("v1-2025-seed")
    leaves = [make_leaf(stream.update(bytes(CHUNK_BYTES)))._replace(data=bytes(CHUNK_BYTES)) for _ in range(1_025)]

    assert str(add_leaves(leaves[:1_024]).cid) == PUBLISHED["at_max_links"]
    assert str(add_leaves(leaves).cid) == PUBLISHED["over_max_links"]


def link_level_by_level(parts, links_max):
    """The definition, with all parts in memory."""
    while len(parts) > 1:
        parts = [link_parts(parts[at : at + links_max])[0] for at in range(0, len(parts), links_max)]
    return parts[0]


@given(count=st.integers(1, 70), links_max=st.integers(2, 4))
def test_linking_leaf_by_leaf_gives_the_tree_of_all_leaves_at_once(count, links_max):
    leaves = [make_leaf(bytes((number,))) for number in range(count)]
    builder = FileBuilder(links_max)
    blocks = [block for leaf in leaves for block in builder.add(leaf)]

    root, rest = builder.finish()

    assert root == link_level_by_level([Root(leaf.cid, 1, 1) for leaf in leaves], links_max)
    # Each node is given once, after its children: whoever stores them in this order never holds a dangling one.
    known = {leaf.cid for leaf in leaves}
    for cid, data in blocks + rest:
        assert {link.cid for link in decode_node(data).links} <= known
        assert cid not in known
        known.add(cid)
    assert count == 1 or root.cid in known


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/", "nul\0", "\ud800", "n" * 256, "é" * 128])
def test_a_name_that_leads_elsewhere_is_no_entry(name):
    with pytest.raises(MalformedMessage):
        link_entries({name: add_file(b"")})


def list_all(root, blocks):
    known = dict(blocks)
    return list(list_entries(read_unixfs(known[root.cid]), known.__getitem__))


def test_a_divided_folder_lists_what_was_put_into_it():
    entries = {f"entry {number}": add_file(bytes((number % 256,))) for number in range(6_000)}

    found = list_all(*link_entries(entries))

    assert {link.name: link.cid for link in found} == {name: root.cid for name, root in entries.items()}
    assert len(found) == len(entries)


@pytest.mark.parametrize("lie", ["moved", "deeper", "place", "flat below", "letters", "empty", "more"])
def test_a_divided_folder_that_could_hold_a_name_twice_is_refused(lie):
    leaf = add_file(b"x")
    place = compute_name_hash("name")[0]
    other = (place + 1) % 256
    link, below = Link(leaf.cid, format_place(place) + "name", 1), Link(leaf.cid, format_place(place), 1)
    places, links = (place,), (link,)
    if lie == "moved":
        places, links = (other,), (link._replace(name=format_place(other) + "name"),)
    elif lie == "place":
        places = (other,)
    elif lie == "letters":
        places, links = (place % 16,), (link._replace(name=f"+{place % 16:X}name"),)  # a number all the same
    elif lie == "empty":
        places, links = (), ()
    data = write_places(places) + (write_number(3, 1) if lie == "more" else b"")
    inner = encode_node(Node(links, data))
    known = {compute_cid(DAG_PB, inner): inner}
    if lie == "deeper":  # the name's own place leads to a node that holds it where only another would stand
        known, inner = {}, encode_node(Node((link,), write_places((place,))))
        for _ in range(9):
            known[compute_cid(DAG_PB, inner)] = inner
            inner = encode_node(Node((below._replace(cid=compute_cid(DAG_PB, inner)),), write_places((place,))))
    elif lie == "flat below":
        flat = link_entries({"name": leaf})[1][0]
        known, inner = {flat.cid: flat.data}, encode_node(Node((below._replace(cid=flat.cid),), write_places((place,))))

    with pytest.raises(MalformedMessage):
        list(list_entries(read_unixfs(inner), known.__getitem__))


def make_links(draw_names):
    return st.builds(
        Link,
        st.builds(compute_cid, st.sampled_from((RAW, DAG_PB)), st.binary(max_size=8)),
        draw_names,
        st.integers(0, 2**63 - 1),
    )


@given(links=st.lists(make_links(st.text(max_size=8)), max_size=4), data=st.binary(max_size=20))
def test_a_node_reads_back_as_it_was_written(links, data):
    try:
        block = encode_node(Node(tuple(links), data))
    except UnicodeEncodeError:
        return  # half a surrogate pair is no text

    assert decode_node(block) == Node(tuple(links), data)


@given(data=st.data())
def test_changed_nodes_are_refused_or_mean_something_else(data):
    block = encode_node(Node((Link(Cid(RAW, bytes(32)), "a", 7), Link(Cid(DAG_PB, bytes(32)), "b", 300)), b"\x08\x01"))
    at = data.draw(st.integers(0, len(block) - 1))
    changed = block[:at] + bytes((data.draw(st.integers(0, 255)),)) + block[at + 1 :]
    try:
        node = decode_node(changed)
    except MalformedMessage:
        return
    assert encode_node(node) == changed


@given(st.binary(max_size=60))
def test_any_bytes_are_a_node_or_malformed(data):
    try:
        node = decode_node(data)
    except MalformedMessage:
        return
    assert encode_node(node) == data
