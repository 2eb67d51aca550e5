"""Free ports on the loopback interface."""

import random
import socket

from stream_app.lab.broker.errors import NoFreePortError

# Below the range of ports for outgoing connections (from 32768 on Linux): a client that connects to a stopped broker
# on a port in that range can get the same port as its own, and would be connected to itself.
FREE_PORTS = range(20_000, 32_000)


def is_free(port: int) -> bool:
    """Return whether a program could listen on 127.0.0.1:port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # Like Java, ignore connections in TIME_WAIT of a broker that has just stopped.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def free_port(besides: int = 0) -> int:
    """Return a port on which nothing listens at this moment, never `besides`. Raises NoFreePortError."""
    # Not seeded: two programs that search at the same time should not find the same port.
    candidates = random.SystemRandom().sample(FREE_PORTS, 200)
    for port in candidates:
        if port != besides and is_free(port):
            return port
    raise NoFreePortError(FREE_PORTS[0], FREE_PORTS[-1])
