"""The text the generative model learns: Python's own documentation, as `pydoc_data.topics` has it.

The text differs from one Python to the next, so it is committed; `python -m testnet.models.learn.text` writes it anew
from the Python that runs it. A topic often repeats paragraphs of another. Each paragraph is kept once, or held-out
topics would be found among those trained on.
"""

import argparse
import lzma
import platform
import re
from collections.abc import Iterable
from pathlib import Path

FILE = "python-topics.txt.xz"
TOPIC_END = "\n\n\n"  # no topic holds more than one empty line in a row
HELDOUT_EVERY = 10
VOCABULARY = "\n" + "".join(map(chr, range(32, 127)))  # a token is a place in it
_PLACES = {character: place for place, character in enumerate(VOCABULARY)}
# What the documentation has beside ASCII.
REPLACEMENTS = {"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "--", "…": "...", "ß": "ss", "°": " degrees"}


def clean_topics(texts: Iterable[str]) -> list[str]:
    r"""The topics in ASCII, without paragraphs that came before and without topics that have none of their own.

    >>> clean_topics(["One.\n\nTwo – or so.", "One.\n\n\nThree.", "One."])
    ['One.\n\nTwo - or so.', 'Three.']
    """
    seen: set[str] = set()
    cleaned = []
    for text in texts:
        kept = []
        for paragraph in re.split(r"\n\s*\n", "".join(REPLACEMENTS.get(each, each) for each in text).strip("\n")):
            words = " ".join(paragraph.split())
            if words not in seen:
                seen.add(words)
                kept.append(paragraph)
        if kept:
            cleaned.append("\n\n".join(kept))
    return cleaned


def split_text(text: str) -> tuple[str, str]:
    """The topics to train on and those held out: every tenth, counted from the tenth."""
    topics = text.split(TOPIC_END)
    held = topics[HELDOUT_EVERY - 1 :: HELDOUT_EVERY]
    rest = [topic for place, topic in enumerate(topics, start=1) if place % HELDOUT_EVERY]
    return TOPIC_END.join(rest), TOPIC_END.join(held)


def encode_text(text: str) -> list[int]:
    r"""The tokens of a text. ValueError for a character the vocabulary lacks.

    >>> encode_text("a\nb")
    [66, 0, 67]
    """
    unknown = set(text) - _PLACES.keys()
    if unknown:
        raise ValueError(f"characters without a token: {' '.join(sorted(unknown))}")
    return [_PLACES[character] for character in text]


def decode_tokens(tokens: Iterable[int]) -> str:
    """The text of tokens."""
    return "".join(VOCABULARY[token] for token in tokens)


def read_text(folder: Path) -> str:
    """The committed text."""
    return lzma.decompress((folder / FILE).read_bytes()).decode("ascii")


if __name__ == "__main__":
    from pydoc_data.topics import topics  # half a megabyte that nobody else needs

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1], help="folder to write into")
    text = TOPIC_END.join(clean_topics(topics.values()))
    data = lzma.compress(text.encode("ascii"), preset=9)
    (parser.parse_args().out / FILE).write_bytes(data)
    print(f"{FILE}: {len(text)} characters of Python {platform.python_version()}, {len(data)} bytes")
