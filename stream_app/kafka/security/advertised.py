"""Checks whether the addresses that a broker advertises for its cluster can be reached.

A Kafka client uses its configured addresses only for the first request. After that it connects to the addresses in
the answer, which each broker takes from its advertised.listeners.
"""

import asyncio
import socket
from collections.abc import Sequence

#: How long a connection may take, in seconds.
STEP_S = 3.0

Address = tuple[str, int]


async def unreachable(asked: Address, given: Sequence[Address]) -> str | None:
    """A sentence about the first unreachable address `given` by the broker `asked`; None if all can be reached."""
    whom = "itself" if len(given) == 1 else "a broker of its cluster"
    for host, port in given:
        why = await _why(host, port)
        if why:
            return (
                f"the broker at {_name(*asked)} answers but names {whom} {_name(host, port)}, which "
                f"cannot be reached ({why}): set its advertised.listeners to an address that can be reached from here"
            )
    return None


async def _why(host: str, port: int) -> str | None:
    try:
        async with asyncio.timeout(STEP_S):
            _, writer = await asyncio.open_connection(host, port)
    except TimeoutError:
        return f"no answer within {STEP_S:g} s"
    except socket.gaierror:
        return "its name does not resolve"
    except ConnectionRefusedError:
        return "connection refused"
    except (OSError, UnicodeError) as error:
        return str(error)
    writer.transport.abort()
    return None


def _name(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
