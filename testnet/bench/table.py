"""The tables of docs/benchmarks.md, made from what a benchmark printed with `--json`:

rolemesh bench gossip --json | python -m testnet.bench.table gossip docs/benchmarks.md
"""

import json
import os
import platform
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def format_markdown(figures: Iterable[Mapping[str, Any]]) -> str:
    """A row per figure, with thousands parted.

    >>> figure = dict(name="connect", value=5.0, unit="ms", peer="py-libp2p", peer_value=250.0, ratio=50.0)
    >>> print(format_markdown([figure]))
    | figure | ours | beside | theirs | ratio |
    |---|---:|---|---:|---:|
    | `connect` | 5 ms | py-libp2p | 250 ms | 50× |
    """
    rows = ["| figure | ours | beside | theirs | ratio |", "|---|---:|---|---:|---:|"]
    for figure in figures:
        ours, theirs = (f"{_round(figure[key])} {figure['unit']}" for key in ("value", "peer_value"))
        rows.append(f"| `{figure['name']}` | {ours} | {figure['peer']} | {theirs} | {figure['ratio']:g}× |")
    return "\n".join(rows)


def _round(value: float) -> str:
    """Three digits that count are more than a benchmark knows."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def put_between(text: str, name: str, table: str) -> str:
    """The text with the table between `<!-- name -->` and `<!-- /name -->`. ValueError where it has no such place."""
    head, start, rest = text.partition(f"<!-- {name} -->\n")
    _, end, tail = rest.partition(f"<!-- /{name} -->")
    if not start or not end:
        raise ValueError(f"there is no place for a table between <!-- {name} --> and <!-- /{name} -->")
    return f"{head}{start}{table}\n{end}{tail}"


def describe_machine() -> str:
    """What the figures were measured on."""
    cores = len(os.sched_getaffinity(0))
    load = os.getloadavg()[2]
    return (
        f"{cores} cores, {platform.machine()}, Linux, Python {platform.python_version()}; "
        f"load of the last 15 minutes when they were done: {load:.1f}"
    )


def main(name: str, path: Path) -> int:
    """Read figures from standard input, one a line, and write the file anew. Nothing is written after an error."""
    figures = []
    for line in sys.stdin:
        figures.append(json.loads(line))
        print(line, end="", flush=True)
    if not figures or any("error" in figure for figure in figures):
        print(f"the benchmark failed: {path} stays as it is", file=sys.stderr)
        return 1
    table = f"{format_markdown(figures)}\n\nMeasured on {describe_machine()}."
    path.write_text(put_between(path.read_text("utf-8"), name, table), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
