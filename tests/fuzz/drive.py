"""One target under libFuzzer, in a process of its own: `python -m tests.fuzz.drive TARGET CORPUS LIBFUZZER-OPTIONS…`.

Started by `tests.fuzz.run`. What the target imports of ours, and of msgpack where that is Python, is instrumented.
"""

import sys

import atheris

with atheris.instrument_imports(include=["p2p", "protocol", "msgpack"]):
    from tests.fuzz.targets import TARGETS


def main() -> None:
    name, *options = sys.argv[1:]
    atheris.Setup([sys.argv[0], *options], TARGETS[name].run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
