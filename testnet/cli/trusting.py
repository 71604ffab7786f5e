"""Options that say whom a reader of proofs trusts: --genesis and --measurements."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from testnet.cli.output import CommandError, ExitCode

if TYPE_CHECKING:
    from protocol.proofs.context import Measurement, Trust

Genesis = Annotated[
    Path | None,
    Parameter(
        name="--genesis",
        help="A genesis.json or testnet.json: what .proof files are checked against. A testnet.json whose keys are "
        "public also lets proofs count that anyone can make.",
    ),
]
Measurements = Annotated[
    Path | None,
    Parameter(
        name="--measurements",
        help="JSON list of enclaves you trust to run a model faithfully: objects with PCR0, PCR1 and PCR2 in hex.",
    ),
]


@dataclass(frozen=True)
class Trusting:
    """What was said about trust. `test_chain` is the one chain that is known for a test network."""

    measurements: "frozenset[Measurement]" = frozenset()
    test_chain: bytes | None = None

    def for_chain(self, chain: bytes) -> "Trust":
        """What counts for a receipt of this chain. Simulated enclaves need no list: they show nothing anyway."""
        from protocol.proofs.context import Trust
        from testnet.simulated_nitro import MEASUREMENT

        is_test = chain == self.test_chain
        return Trust(self.measurements | ({MEASUREMENT} if is_test else frozenset()), is_test_network=is_test)


NOBODY = Trusting()


def gather_trust(network: Path | None, measurements: Path | None) -> Trusting:
    """`network` is a testnet.json, a directory that may hold one, or a genesis alone. Raises CommandError."""
    from testnet.network_file import FILE_NAME, NetworkFileError, read_network_file
    from testnet.trust import find_test_chain, read_measurements

    path = network / FILE_NAME if network is not None and network.is_dir() else network
    test_chain = None
    if path is not None and path.is_file():
        try:
            test_chain = find_test_chain(read_network_file(path))
        except NetworkFileError:
            test_chain = None  # a genesis alone says nothing about who has its keys
    if measurements is None:
        return Trusting(test_chain=test_chain)
    try:
        return Trusting(read_measurements(measurements), test_chain)
    except (OSError, ValueError) as error:
        hint = 'write [{"PCR0": "…", "PCR1": "…", "PCR2": "…"}], as `nitro-cli build-enclave` prints them'
        raise CommandError("bad_measurements", f"{measurements}: {error}", hint, ExitCode.CONFIG) from error
