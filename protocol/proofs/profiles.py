"""How an output was computed, as the one line that is signed with it.

Equal profiles on honest machines give equal bytes; where one field differs, the last bits of float models may too.
"""

import re
from dataclasses import fields

from protocol.errors import MalformedMessage
from protocol.fast_dataclass import fast_dataclass

_WORD = r"([A-Za-z0-9][A-Za-z0-9._+-]{0,31})"
_NUMBER = r"([1-9][0-9]{0,5})"
_LINE = re.compile(
    f"ort={_WORD};ep={_WORD};isa={_WORD};th={_NUMBER};opt=(all|extended|basic|disable);batch={_NUMBER}", re.ASCII
)


@fast_dataclass(frozen=True)
class Profile:
    """The version of onnxruntime, where it ran (execution provider, instruction set, threads) and how.

    >>> str(Profile("1.31.1", "cpu", "avx2", 1, "all", 8))
    'ort=1.31.1;ep=cpu;isa=avx2;th=1;opt=all;batch=8'
    """

    ort: str
    ep: str
    isa: str
    th: int
    opt: str
    batch: int

    def __str__(self) -> str:
        return ";".join(f"{item.name}={getattr(self, item.name)}" for item in fields(self))

    @property
    def is_optimised(self) -> bool:
        return self.opt != "disable"


def parse_profile(text: str) -> Profile:
    """MalformedMessage unless it is spelt exactly as `str` spells it: a line that is signed has one spelling."""
    found = _LINE.fullmatch(text)
    if found is None:
        raise MalformedMessage(f"not a profile: {text[:120]!r}")
    ort, ep, isa, th, opt, batch = found.groups()
    return Profile(ort, ep, isa, int(th), opt, int(batch))


def list_differences(one: Profile, other: Profile) -> tuple[str, ...]:
    """The fields in which two profiles differ.

    >>> list_differences(Profile("1.31.1", "cpu", "sse", 1, "all", 1), Profile("1.31.1", "cpu", "avx", 1, "all", 2))
    ('isa', 'batch')
    """
    return tuple(item.name for item in fields(one) if getattr(one, item.name) != getattr(other, item.name))
