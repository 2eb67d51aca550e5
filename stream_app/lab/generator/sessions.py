"""What shoppers do: sessions are simulated in rounds, the first event of every session, then the second, and so on.

A model can learn these rules, the strongest first: the next click follows from the last item and the user's taste,
or from the item before it; a session stays in its category; some users come back to the item before last, and these
users buy it far more often than others.
"""

from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from stream_app.contract.records import BROWSE, CLICK, PURCHASE
from stream_app.lab.generator.catalogue import Floats, Ints
from stream_app.lab.generator.columns import EventRows, rows
from stream_app.lab.generator.people import People
from stream_app.lab.generator.settings import SESSION_EVENTS, THINK_MEDIAN_S, THINK_SIGMA

Bools = npt.NDArray[np.bool_]

MAX_EVENTS = 60
#: How the next click is chosen: upper limits of a uniform number; above the last one, any item of the shop.
_RETURN, _SUCCESSOR, _SAME_CATEGORY, _OTHER_INTEREST = 0.10, 0.68, 0.84, 0.94
#: Chance that the next click follows from the item before last.
_FROM_EARLIER = 0.25
_START_WITH_LIST, _LOOK_CLOSER, _SEE_LIST = 0.5, 0.10, 0.10
#: How much more often an item is bought if the session came back to it, or looked at it closely.
_RETURNED, _LOOKED = 8.0, 2.5
_SECOND_ITEM = 0.25  # chance that an order also has the item clicked before the last


def draw_lengths(n: int, rng: np.random.Generator) -> tuple[Ints, Floats]:
    """Return the number of events (n,) of each session, and the seconds (n, MAX_EVENTS) before each event."""
    events = np.minimum(rng.geometric(1 / SESSION_EVENTS, n), MAX_EVENTS).astype(np.int32)
    gaps = np.zeros((n, MAX_EVENTS), np.float32)
    used = np.arange(1, MAX_EVENTS) < events[:, None]
    think = rng.standard_normal(int(used.sum()), np.float32) * THINK_SIGMA + np.log(THINK_MEDIAN_S)
    gaps[:, 1:][used] = np.exp(think)
    return events, gaps.astype(np.float64)


class Visits(NamedTuple):
    """n sessions before their events are simulated."""

    users: Ints  # (n,)
    start: Floats  # (n,) seconds of shop time
    events: Ints  # (n,) number of events
    gaps: Floats  # (n, MAX_EVENTS) seconds before each event

    def take(self, index: npt.NDArray[Any]) -> Self:
        """Return the sessions at `index` (positions or a mask)."""
        return type(self)(*(column[index] for column in self))


def shop(visits: Visits, people: People, *, session: int, rng: np.random.Generator) -> EventRows:
    """Return the events of the sessions; the first session has the number `session`.

    A purchase is always of an item that was clicked before in the same session.
    """
    catalogue = people.catalogue
    users, start, events, gaps = visits.take(np.argsort(-visits.events, kind="stable"))  # longest first
    n = len(users)
    times = start[:, None] + np.cumsum(gaps, axis=1)
    taste = people.taste(users)
    category = people.interest(users, rng.random(n))
    last, before, bought = (np.full(n, -1, np.int32) for _ in range(3))  # items
    order = np.zeros(n, np.int64)
    returned, looked, ordered = (np.zeros(n, bool) for _ in range(3))  # what the previous event was
    alive = np.searchsorted(-events, -np.arange(MAX_EVENTS), side="left")  # sessions longer than the round
    out = []
    for step in range(int(events[0]) if n else 0):
        m = int(alive[step])
        u = rng.random((6, m))
        now = slice(0, m)
        have, two = last[now] >= 0, before[now] >= 0

        # A purchase of the last item clicked, or of the one before it as the second line of an order.
        wish = people.eagerness[users[now]] * np.where(returned[now], _RETURNED, 1.0)
        wish *= np.where(looked[now], _LOOKED, 1.0)
        second = ordered[now] & two & (before[now] != last[now]) & (u[0] < _SECOND_ITEM)
        buy = (have & (bought[now] != last[now]) & (u[1] < wish)) | second
        # A browse is a closer look at the last item, or a list.
        look = ~buy & have & ~looked[now] & (u[2] < _LOOK_CLOSER)
        see_list = ~buy & ~look & (u[2] > 1 - (_START_WITH_LIST if step == 0 else _SEE_LIST))
        click = ~(buy | look | see_list)

        # The next click.
        back = click & two & (u[3] < _RETURN)
        follow = click & have & ~back & (u[3] < _SUCCESSOR)
        roam = click & ~back & ~follow
        wander = have & (u[3] >= _SAME_CATEGORY) & (click | see_list)
        here = category[now]
        here = np.where(wander & (u[3] < _OTHER_INTEREST), people.interest(users[now], u[4]), here)
        item = np.where(second, before[now], np.where(see_list, -1, last[now]))
        item = np.where(back, before[now], item)
        anchor = np.where(two & (u[4] < _FROM_EARLIER), before[now], last[now])
        item[follow] = catalogue.after(anchor[follow], taste[now][follow], u[5][follow])
        item[roam] = catalogue.popular(here[roam], u[5][roam])
        anywhere = roam & wander & (u[3] >= _OTHER_INTEREST)
        item[anywhere] = catalogue.any(u[5][anywhere])
        here = np.where(item >= 0, catalogue.category[item], here)

        order[now] += buy & ~second
        out.append(
            rows(
                m,
                time_s=times[now, step],
                session=session + np.arange(m),
                user=users[now],
                item=item,
                category=here,
                event_type=np.where(buy, PURCHASE, np.where(click, CLICK, BROWSE)),
                order=np.where(buy, order[now], -1),
                quantity=np.where(buy & (u[5] > 0.85), 2, 1),
                query=np.where(see_list & (u[5] < 0.5), here, -1),
                listing=_listing(click, follow, u[2]),
                position=np.where(click & ~back, (20 * u[1] ** 3).astype(np.int32), -1),
            )
        )
        before[now] = np.where(click, last[now], before[now])
        last[now] = np.where(click, item, last[now])
        bought[now] = np.where(buy & ~second, item, bought[now])
        category[now] = here
        returned[now] = back | (returned[now] & look)
        looked[now] = look
        ordered[now] = buy & ~second
    if not out:
        return rows(0)
    made = np.concatenate(out)
    made["device"], made["country"] = people.device[made["user"]], people.country[made["user"]]
    return made


def _listing(click: Bools, follow: Bools, u: Floats) -> Ints:
    """Return where an item was shown: what follows from the last item was recommended, the rest came from a list."""
    return np.where(click, np.where(follow, 2, (u * 7.7).astype(np.int32) % 4), -1).astype(np.int32)
