"""What a node opens for its work."""

import io
from functools import partial

import pytest

from protocol.errors import MissingBlob
from roles.blobs import BlobStore, read_blob
from roles.equipment import find_blob
from roles.store.importing import import_stream
from roles.store.store import STORE_NAME, Store


def test_a_block_is_found_among_the_nodes_own_and_in_its_store_and_checked_in_both(tmp_path):
    blobs = BlobStore(tmp_path / "blobs")
    own = blobs.put(b"own")
    with Store(tmp_path / STORE_NAME, free_bytes_min=0) as store:
        kept = import_stream(store, io.BytesIO(b"kept")).root.cid.digest
        damaged = import_stream(store, io.BytesIO(b"damaged")).root.cid.digest
    (tmp_path / STORE_NAME / damaged.hex()[:2] / damaged.hex()).write_bytes(b"evil")

    assert find_blob(blobs, partial(read_blob, tmp_path / STORE_NAME), own) == b"own"
    assert find_blob(blobs, partial(read_blob, tmp_path / STORE_NAME), kept) == b"kept"
    for missing in (damaged, bytes(32)):
        with pytest.raises(MissingBlob):
            find_blob(blobs, partial(read_blob, tmp_path / STORE_NAME), missing)
