"""How an output was computed, as one line that is signed with it.

Outputs of float models may differ in their last bits between two profiles; equal profiles give equal bytes.
"""

import platform
from functools import cache
from pathlib import Path

from protocol.proofs.profiles import Profile

# The best level a processor has decides. u8×s8 products saturate below "avx512vnni" and "avx2vnni".
_X86_LEVELS = (
    ("avx512_vnni", "avx512vnni"),
    ("avx512f", "avx512"),
    ("avx_vnni", "avx2vnni"),
    ("avx2", "avx2"),
    ("avx", "avx"),
    ("sse2", "sse"),
)
_ARM_LEVELS = (("sve", "arm64sve"), ("i8mm", "arm64i8mm"), ("asimddp", "arm64dotprod"), ("asimd", "arm64"))


def format_profile(version: str, optimise: str, rows: int, threads: int = 1) -> str:
    """The profile of one run.

    >>> format_profile("1.31.1", "all", 1).replace(get_isa(), "avx2")
    'ort=1.31.1;ep=cpu;isa=avx2;th=1;opt=all;batch=1'
    """
    return str(Profile(version, "cpu", get_isa(), threads, optimise, rows))


@cache
def get_isa() -> str:
    """The instruction set level of this processor; the machine's name where it cannot be read."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    return parse_isa(text) or platform.machine().lower() or "unknown"


def parse_isa(cpuinfo: str) -> str:
    """The level in the text of /proc/cpuinfo, or an empty string.

    >>> parse_isa("flags\\t\\t: fpu sse2 avx avx2")
    'avx2'
    """
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        flags = set(value.split())
        levels = {"flags": _X86_LEVELS, "Features": _ARM_LEVELS}.get(name.strip(), ())
        for flag, level in levels:
            if flag in flags:
                return level
    return ""
