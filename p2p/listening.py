"""A port of our own: taken so that nobody shares it, and errors that say why it cannot be had."""

import errno

import trio

BACKLOG = 1_024  # callers the kernel keeps until we take them in: a burst of one must not delay another


class CannotListen(OSError):
    """The listen address cannot be had."""

    def __init__(self, host: str, port: int, why: str) -> None:
        super().__init__(f"cannot listen on {host} port {port}: {why}")
        self.host = host
        self.port = port


class PortInUse(CannotListen):
    """Another process listens there already."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port, "another process has it")


async def listen(host: str, port: int) -> trio.SocketListener:
    """Raises PortInUse or CannotListen."""
    # Without SO_REUSEPORT, which stock sets: with it two nodes share a port in silence and each hears half its callers.
    family = trio.socket.AF_INET6 if ":" in host else trio.socket.AF_INET
    sock = trio.socket.socket(family, trio.socket.SOCK_STREAM)
    try:
        sock.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_REUSEADDR, 1)
        await sock.bind((host, port))
        sock.listen(BACKLOG)
        return trio.SocketListener(sock)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(host, port) from error
        raise CannotListen(host, port, error.strerror or str(error)) from error
