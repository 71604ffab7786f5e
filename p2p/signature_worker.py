"""A process that verifies signatures, on a core that the node's loop does not use: `python -m p2p.signature_worker`.

Standard input is a socket. It greets there with a byte; then each thing read is a list of (key, data, signature), and
what is written back is a byte for each, in order: 1 for a good one, else 0. It ends when the other end closes, as it
does when the node dies.
"""

import signal
import socket

import msgpack

from protocol.keys import verify

READ_BYTES = 256 * 1024


def serve(sock: socket.socket) -> None:
    """Until the other end closes."""
    sock.sendall(b"\0")
    unpacker = msgpack.Unpacker(use_list=False)
    while data := sock.recv(READ_BYTES):
        unpacker.feed(data)
        for batch in unpacker:
            sock.sendall(bytes([verify(*each) for each in batch]))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the node, which closes the socket
    serve(socket.socket(fileno=0))
