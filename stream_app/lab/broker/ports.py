"""Free ports on the loopback interface."""

import random
import socket

from stream_app.lab.broker.errors import NoFreePortError

# Below the range that the system hands to outgoing connections (from 32768 on Linux): a client that tries to
# reach a stopped broker on a port within it can be given that very port, and then talks to itself.
FREE_PORTS = range(20_000, 32_000)


def is_free(port: int) -> bool:
    """Return whether 127.0.0.1:port can be listened on right now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As Java does: connections of a broker just stopped, in TIME_WAIT, do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def free_port(besides: int = 0) -> int:
    """Return a port that nothing listens on at this moment, never `besides`. Raises NoFreePortError."""
    # Not seeded: two programs looking at the same time should not find the same one.
    candidates = random.SystemRandom().sample(FREE_PORTS, 200)
    for port in candidates:
        if port != besides and is_free(port):
            return port
    raise NoFreePortError(FREE_PORTS[0], FREE_PORTS[-1])
