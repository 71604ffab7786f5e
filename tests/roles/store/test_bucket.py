"""A store whose blocks are in an S3-compatible bucket, over HTTP: as safe as one of files, whatever the bucket does."""

import io
import logging
import socket

import pytest

from protocol.content import BLOB_BYTES_MAX
from protocol.errors import MissingBlob
from roles.config import NodeConfig
from roles.store import bucket as bucket_module
from roles.store.bucket import BucketBlocks, BucketFailed, NoBucketLibrary, parse_bucket
from roles.store.checking import check
from roles.store.collecting import collect
from roles.store.exporting import export
from roles.store.importing import import_path, import_stream
from roles.store.store import STORE_NAME, Store, open_blocks, open_store
from tests.roles.store.parts import make_tree, read_tree

NO_SERVER = "NO TESTS OF BUCKETS: moto and botocore are not installed; `make setup` installs them"
moto_server = pytest.importorskip("moto.server", reason=NO_SERVER)
pytest.importorskip("botocore", reason=NO_SERVER)

NAME = "blocks"


@pytest.fixture(scope="module")
def endpoint():
    """An S3-compatible server on loopback."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto_server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def place(endpoint, monkeypatch, tmp_path):
    """A bucket of this test's own."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "for-tests")
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    found = parse_bucket(f"{endpoint}/{NAME}/{tmp_path.name.replace('_', '-')}")
    bucket_module._make_client(found).create_bucket(Bucket=NAME)
    return found


@pytest.fixture
def client(place):
    return bucket_module._make_client(place)


@pytest.fixture
def store(place, tmp_path):
    with Store(tmp_path / "store", blocks=BucketBlocks(place)) as store:
        yield store


def list_keys(client, place):
    found = client.list_objects_v2(Bucket=NAME, Prefix=place.prefix + "/").get("Contents", [])
    return sorted(item["Key"] for item in found)


def put(store, data, **how):
    return import_stream(store, io.BytesIO(data), **how).root.cid


def test_a_folder_goes_in_and_out_and_only_its_index_is_on_disk(store, place, client, tmp_path):
    make_tree(tmp_path / "in")
    done = import_path(store, tmp_path / "in")
    export(store, done.root.cid, tmp_path / "out")

    assert read_tree(tmp_path / "out") == read_tree(tmp_path / "in")
    assert check(store).damaged == ()
    assert len(list_keys(client, place)) == store.index.count_blocks()
    assert {path.suffix for path in (tmp_path / "store").iterdir()} <= {".db", ".db-wal", ".db-shm"}


def test_names_of_objects_are_those_of_the_files(store, place, client):
    cid = put(store, b"hello")
    name = cid.digest.hex()

    assert list_keys(client, place) == [f"{place.prefix}/{name[:2]}/{name}"]


def test_what_is_there_is_not_sent_twice(store, place):
    put(store, b"hello")

    assert not store.files.write(1, put(store, b"hello").digest, b"hello")
    assert import_stream(store, io.BytesIO(b"hello")).new_bytes == 0


def test_a_bucket_that_gives_other_bytes_is_not_believed_and_what_it_gave_is_kept_aside(store, place, client):
    cid = put(store, b"hello")
    (key,) = list_keys(client, place)
    client.put_object(Bucket=NAME, Key=key, Body=b"jello")

    with pytest.raises(MissingBlob):
        store.read(cid)
    assert list_keys(client, place) == [f"{place.prefix}/corrupt/{cid.digest.hex()}"]
    assert put(store, b"hello") == cid
    assert store.read(cid) == b"hello"


def test_no_more_than_a_block_is_read_whatever_the_bucket_has(store, place, client, monkeypatch):
    cid = put(store, b"hello")
    client.put_object(Bucket=NAME, Key=list_keys(client, place)[0], Body=bytes(BLOB_BYTES_MAX + 10))
    read = []
    inner = bucket_module._read_body
    monkeypatch.setattr(bucket_module, "_read_body", lambda answer: (read.append(inner(answer)), read[-1])[1])

    with pytest.raises(MissingBlob):
        store.files.read(cid.digest)
    assert list(map(len, read)) == [BLOB_BYTES_MAX + 1]


def test_an_object_that_is_gone_is_missing_and_put_again(store, place, client):
    cid = put(store, b"hello")
    client.delete_object(Bucket=NAME, Key=list_keys(client, place)[0])

    assert check(store).damaged == (cid,)
    put(store, b"hello")
    assert check(store).damaged == ()


def test_a_collection_removes_objects_and_strays_and_nothing_else(store, place, client, monkeypatch):
    kept, dropped = put(store, b"kept"), put(store, b"dropped")
    shards = ("ab", kept.digest[:1].hex())  # all 256 take moto some seconds
    monkeypatch.setattr("roles.store.collecting.list_shards", lambda: shards)
    stray = f"{place.prefix}/ab/{'ab' * 32}"
    client.put_object(Bucket=NAME, Key=stray, Body=b"stray")
    client.put_object(Bucket=NAME, Key=f"{place.prefix}/ab/notes.txt", Body=b"mine")
    store.unpin(dropped)

    done = collect(store)

    assert (done.blocks, done.strays) == (1, 1)
    names = [key.rpartition("/")[2] for key in list_keys(client, place)]
    assert sorted(names) == sorted(["notes.txt", kept.digest.hex()])


@pytest.mark.full
def test_a_lost_index_is_made_anew_from_the_bucket(place, tmp_path):
    with Store(tmp_path / "one", blocks=BucketBlocks(place)) as store:
        cid = put(store, bytes(3 * 2**20))
    with Store(tmp_path / "two", blocks=BucketBlocks(place)) as store:
        assert [pin.cid for pin in store.get_pins()] == [cid]
        assert check(store).damaged == ()


def test_more_objects_than_one_list_holds_are_all_seen(place, client, monkeypatch):
    monkeypatch.setattr(bucket_module, "PAGE", 2)
    digests = sorted(bytes([7]) + number.to_bytes(31) for number in range(5))
    blocks = BucketBlocks(place)
    for digest in digests:
        client.put_object(Bucket=NAME, Key=f"{place.prefix}/07/{digest.hex()}", Body=b"")

    assert sorted(blocks.list_shard("07")) == digests
    assert not blocks.is_empty()


def test_a_bucket_that_cannot_be_reached_says_so_and_nothing_counts_as_missing(place, monkeypatch, tmp_path):
    monkeypatch.setattr(bucket_module, "TRIES", 1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    dead = parse_bucket(f"http://127.0.0.1:{port}/{NAME}")

    with pytest.raises(BucketFailed, match=r"127\.0\.0\.1"):
        BucketBlocks(dead).read(bytes(32))
    with pytest.raises(BucketFailed):
        Store(tmp_path / "store", blocks=BucketBlocks(dead))


def test_a_bucket_that_is_not_there_or_refuses_us_fails(place):
    other = place._replace(bucket="another")

    with pytest.raises(BucketFailed, match="NoSuchBucket"):
        BucketBlocks(other).write(1, bytes(32), b"")


def test_a_node_s_configuration_names_the_bucket(place, tmp_path):
    config = NodeConfig("node", ("storage",), store_bucket=str(place))
    with open_store(tmp_path, config) as store:
        cid = put(store, b"hello")

    assert open_blocks(tmp_path, config)(cid.digest) == b"hello"
    assert not list((tmp_path / STORE_NAME).glob("??"))


def test_without_the_library_it_says_what_to_install(place, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    with pytest.raises(NoBucketLibrary, match=r"pip install 'rolemesh\[s3\]'"):
        BucketBlocks(place)


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket",
        "https://host",
        "https://host/",
        "https://host/UPPER",
        "https://host/ab",
        "https://user:secret@host/bucket",
        "https://host/bucket?x=1",
        "https://host/bucket/../up",
        "https://host/bucket/a//b",
    ],
)
def test_what_is_no_bucket_is_refused(text):
    with pytest.raises(ValueError, match="bucket"):
        parse_bucket(text)
