"""What the tests of the store share."""

import random

from roles.store.store import Store


def open_store(folder, bytes_max=2**40, free_bytes_min=0):
    return Store(folder / "store", bytes_max, free_bytes_min)


def make_tree(folder, seed=1):
    """A folder with files of several sizes, inside each other; what it holds, by path."""
    rng = random.Random(seed)
    sizes = {"empty": 0, "one": 1, "sub/mib": 2**20, "sub/more": 2**20 + 1, "sub/deep/large": 3 * 2**20 + 5, "z": 99}
    contents = {name: rng.randbytes(size) for name, size in sizes.items()}
    for name, data in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (folder / "sub" / "nothing").mkdir()
    return contents


def read_tree(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def block_files(folder):
    return sorted(path for path in (folder / "store").glob("[0-9a-f][0-9a-f]/*"))
