"""When what goes wrong: decided from the seed alone, before anything runs."""

import random

from tests.soak.faults import KINDS, Fault
from tests.soak.stage import ROADS

_FIRST_SECONDS = 3.0


def draw(*, seed: int, seconds: float, every_seconds: float) -> list[Fault]:
    """Return the faults of a run of so many seconds, one every `every_seconds`.

    Kinds come from a shuffled deck, so that each has had its turn before the deck is shuffled again.
    """
    dice = random.Random(f"{seed} faults")
    deck: list[str] = []
    plan = []
    at_seconds = min(_FIRST_SECONDS, seconds / 4)
    while at_seconds < seconds:
        if not deck:
            deck = [name for name, kind in KINDS.items() for _ in range(kind.copies)]
            dice.shuffle(deck)
        plan.append(_fault(deck.pop(), at_seconds, dice))
        at_seconds += every_seconds
    return plan


def _fault(name: str, at_seconds: float, dice: random.Random) -> Fault:
    kind = KINDS[name]
    roads = dice.sample(range(ROADS), dice.randint(*kind.roads))
    return Fault(
        at_seconds=at_seconds,
        kind=name,
        lasts_seconds=dice.uniform(*kind.lasts_seconds),
        roads=tuple(sorted(roads)),
        amount=dice.random(),
    )
