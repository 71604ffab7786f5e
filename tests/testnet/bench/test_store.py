"""The benchmark of the store measures what it says, on a folder small enough for a test."""

from roles.store.store import Store
from testnet.bench import store as bench


def test_a_round_gives_every_figure_and_the_memory_of_its_process(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "BYTES", 24 * bench.MIB)
    monkeypatch.setattr(bench, "ROUNDS", 1)
    notes = []

    figures = list(bench.measure(notes.append, False, frozenset(), tmp_path))

    assert [figure.name for figure in figures] == ["put"] * 2 + ["put_per_cpu_s"] + ["get"] * 2 + [
        "get_per_cpu_s",
        "memory",
        *["transfer"] * 3,
    ]
    assert all(figure.value > 0 and figure.peer_value > 0 for figure in figures)
    assert notes[-2:] == ["round 1 of 1", "transfer: round 1 of 1"]
    assert list(tmp_path.iterdir()) == []


def test_what_is_put_comes_back_and_no_block_is_counted_twice(tmp_path):
    size = 8 * bench.MIB
    bench.make_folder(tmp_path / "in", size)

    bench.work(tmp_path, size)

    files = sorted((tmp_path / "in").iterdir())
    assert sum(path.stat().st_size for path in files) == size
    assert all((tmp_path / "out" / path.name).read_bytes() == path.read_bytes() for path in files)
    with Store(tmp_path / "store") as store:
        assert store.index.get_used_bytes() >= size
