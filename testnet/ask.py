"""Ask a running network for one inference from a program without an event loop: `roles.client` for commands."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog
import trio

from protocol.tensor import Tensor
from roles.client import Answer, Client
from roles.client_stream import StreamedPiece

LOG_NAME = "node.log"


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """What is logged goes to the end of a file while inside; afterwards where it went before."""
    before = structlog.get_config()
    with path.open("a", encoding="utf-8") as log:
        handler = logging.StreamHandler(log)
        handler.setLevel(logging.WARNING)
        structlog.configure(logger_factory=structlog.PrintLoggerFactory(log))
        logging.getLogger().addHandler(handler)
        try:
            yield
        finally:
            logging.getLogger().removeHandler(handler)
            structlog.configure(**before)


def ask_network(
    directory: Path, model: bytes, inputs: tuple[Tensor, ...], note: Callable[[str], None], **options: Any
) -> Answer:
    """Run the client of a data directory until it has an answer. `options` are those of `Client.infer`.

    Raises ClientError, UserError (a directory in use, an address taken), or what a bug raises.
    """

    async def run() -> Answer:
        async with Client.join(directory) as client:
            note(f"joined: {len(client.node.net.peers())} peers, height {client.node.core.ledger.height}")
            return await client.infer(model, inputs, **options)

    with logging_to(directory / LOG_NAME):
        return trio.run(run)


def stream_network(
    directory: Path,
    model: bytes,
    text: str,
    note: Callable[[str], None],
    show: Callable[[StreamedPiece], None],
    **options: Any,
) -> Answer:
    """As `ask_network`, of a generation: `show` is given its pieces as they come.

    `options` are those of `Client.stream`.
    """

    async def run() -> Answer:
        async with Client.join(directory) as client:
            note(f"joined: {len(client.node.net.peers())} peers, height {client.node.core.ledger.height}")
            async with client.stream(model, text, **options) as stream:
                async for piece in stream:
                    show(piece)
            return stream.answer

    with logging_to(directory / LOG_NAME):
        return trio.run(run)
