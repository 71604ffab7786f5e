"""A change to the code that breaks one promise, and the tests that must notice.

The other modules here hold tables of them. `run` tries them; `test_tables` sees to it that each still applies.
"""

from dataclasses import dataclass
from pathlib import Path


class DoesNotApply(Exception):
    """The text to be changed is not in its file exactly once: the table has to follow the code."""


@dataclass(frozen=True)
class Mutation:
    """In `file`, `old` becomes `new`, and `promise` is kept no more. `tests` are what pytest is given."""

    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    promise: str

    def apply(self, source: str) -> str:
        """The file's text, changed. Raises DoesNotApply."""
        count = source.count(self.old)
        if count != 1:
            raise DoesNotApply(f"{self.file} has this {count} times, not once: {self.old!r}")
        return source.replace(self.old, self.new)


def read_source(root: Path, mutation: Mutation) -> str:
    """Raises DoesNotApply for a file that is gone."""
    try:
        return (root / mutation.file).read_text()
    except FileNotFoundError as error:
        raise DoesNotApply(f"{mutation.file} is gone") from error
