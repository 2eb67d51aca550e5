"""The planted abuse: bots that rush through the shop, and bursts of purchases with stolen accounts."""

import numpy as np

from stream_app.contract.records import CLICK, PURCHASE
from stream_app.lab.generator.catalogue import Floats, Ints
from stream_app.lab.generator.columns import BOT, FRAUD, EventRows, rows
from stream_app.lab.generator.people import COUNTRIES, DEVICES, People

#: Mean clicks of a bot's visit and purchases of a burst.
BOT_EVENTS, FRAUD_EVENTS = 120, 8


def bots(
    wanted: float, span: tuple[float, float], people: People, *, session: int, rng: np.random.Generator
) -> EventRows:
    """Return visits of bots with about `wanted` clicks in all, starting within `span` (seconds).

    The first visit has the number `session`. A bot clicks two or three items per second, from the whole shop and
    without regard to category or popularity.
    """
    catalogue = people.catalogue
    visits = rng.poisson(wanted / BOT_EVENTS)
    clicks = rng.integers(BOT_EVENTS // 2, BOT_EVENTS * 3 // 2, visits)
    visit, place = _spread(clicks)
    gaps = np.exp(rng.normal(np.log(0.35), 0.4, len(visit)))
    user = (people.users + rng.integers(0, people.bots, visits))[visit]
    item = rng.integers(0, len(catalogue.category), len(visit), np.int32)
    return rows(
        len(visit),
        time_s=_times(rng.uniform(*span, visits), visit, clicks, gaps),
        session=session + visit,
        user=user,
        item=item,
        category=catalogue.category[item],
        event_type=CLICK,
        listing=1,
        position=place % 20,
        device=people.device[user],
        country=people.country[user],
        maker=BOT,
    )


def fraud(
    wanted: float,
    victims: Ints,
    span: tuple[float, float],
    people: People,
    *,
    session: int,
    rng: np.random.Generator,
) -> EventRows:
    """Return bursts with about `wanted` purchases in all, with accounts from `victims`, starting within `span`.

    A burst buys expensive items, often several of one, seconds apart and without a click on them before, from a
    device and a country that are not those of the owner.
    """
    catalogue = people.catalogue
    bursts = rng.poisson(wanted / FRAUD_EVENTS) if len(victims) else 0
    lines = rng.integers(FRAUD_EVENTS // 2, FRAUD_EVENTS * 3 // 2 + 1, bursts)
    burst, place = _spread(lines)
    user = rng.choice(victims, bursts)[burst] if bursts else np.empty(0, np.int32)
    item = rng.choice(catalogue.expensive, len(burst))
    country = (people.country[user] + rng.integers(1, len(COUNTRIES), bursts)[burst]) % len(COUNTRIES)
    return rows(
        len(burst),
        time_s=_times(
            rng.uniform(*span, bursts), burst, lines, np.exp(rng.normal(np.log(4.0), 0.5, len(burst)))
        ),
        session=session + burst,
        user=user,
        item=item,
        category=catalogue.category[item],
        event_type=PURCHASE,
        order=place + 1,
        quantity=rng.integers(1, 6, len(burst)),
        device=(people.device[user] + 1) % len(DEVICES),
        country=country,
        maker=FRAUD,
    )


def _spread(counts: Ints) -> tuple[Ints, Ints]:
    """For the sizes (n,) of groups: return the group of every member, and its position within the group."""
    group = np.repeat(np.arange(len(counts)), counts)
    return group, np.arange(len(group)) - np.repeat(np.cumsum(counts) - counts, counts)


def _times(start: Floats, group: Ints, counts: Ints, gaps: Floats) -> Floats:
    """Return the start of each member's group plus the sum of its gaps so far."""
    total = np.cumsum(gaps)
    before = np.concatenate([[0.0], total])[np.cumsum(counts) - counts]
    return np.asarray(start[group] + total - before[group])
