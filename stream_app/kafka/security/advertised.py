"""Whether the addresses that a broker gives of itself and of the others can be reached.

A Kafka client uses the addresses it is given only for its first question. From then on it goes where the answer says,
which is what each broker has in its advertised.listeners.
"""

import asyncio
import socket
from collections.abc import Sequence

#: How long a connection may take, in seconds.
STEP_S = 3.0

Address = tuple[str, int]


async def unreachable(asked: Address, given: Sequence[Address]) -> str | None:
    """A sentence about the first address that cannot be reached of those `given` by the broker `asked`, else None."""
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
