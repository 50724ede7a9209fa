"""Numbers that change over a run: values at agent steps, straight lines between them.

A schedule is a text. `3e-4@0,3e-5@10M` is 3e-4 at the start of the run and 3e-5 from 10,000,000
agent steps on, with a straight line between; `3e-4@0%,0@100%` has its places as shares of the run.
Before its first place it has its first value, after its last place its last one. A number that does
not change is a float.
"""

import argparse
import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

FOR_EVER = 2**53  # agent steps; a place can be no later
UNITS = {"%": 0.01, "k": 1e3, "M": 1e6}  # after a place: shares; thousands and millions of steps


class Points(NamedTuple):
    """What a schedule says."""

    values: tuple[float, ...]
    places: tuple[float, ...]  # ascending; agent steps, or shares of the run from 0 to 1
    shares: bool


@functools.cache
def parse(text: str) -> Points:
    """ValueError: one line about what is wrong with the schedule."""
    values, places, kinds = [], [], set()
    for point in text.split(","):
        value, _, place = point.partition("@")
        try:
            values.append(float(value))
            unit = UNITS.get(place[-1:])
            places.append(float(place[:-1]) * unit if unit else float(place))
        except ValueError:
            raise ValueError(f"{point!r} is not VALUE@STEPS or VALUE@SHARE%") from None
        share = place.endswith("%")
        if not 0 <= places[-1] <= (1 if share else FOR_EVER):
            raise ValueError(f"{place!r} is no place in a run")
        if places[-2:] != sorted(set(places[-2:])):
            raise ValueError(f"{place!r} does not come after the place before it")
        if places[-1]:  # 0 is the same in both
            kinds.add(share)
    if len(kinds) > 1:
        raise ValueError(f"{text!r} has places in agent steps and in shares; use one of them")
    return Points(tuple(values), tuple(places), True in kinds)


def is_schedule(value) -> bool:
    """Whether this value of an option is a schedule rather than a number."""
    return isinstance(value, str)


def needs_length(value: float | str) -> bool:
    """Whether it is a schedule by shares of the run."""
    return is_schedule(value) and parse(value).shares


def value_at(value: float | str, steps: int, length: int | None) -> float:
    """The number, or what the schedule says, after `steps` agent steps of the run.

    length: the agent steps that shares are of; None where there are none.
    """
    if not is_schedule(value):
        return value
    values, places, shares = parse(value)
    return float(np.interp(steps / length if shares else steps, places, values))


def number_or_schedule(number: Callable[[str], float], last: Callable[[str], float] | None = None):
    """Type of an option, for argparse: `number`, or a schedule of such values.

    last: for the last value of a schedule, where something else is allowed there.
    """

    def convert(text: str) -> float | str:
        text = "".join(text.split())
        if "@" not in text:
            return number(text)
        *values, final = (point.partition("@")[0] for point in text.split(","))
        try:
            parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        for value in values:
            number(value)
        (last or number)(final)
        return text

    return convert
