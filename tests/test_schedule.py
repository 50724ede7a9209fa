"""schedule.py: values at agent steps and at shares of the run, straight lines between them."""

import argparse
import pickle

import pytest

from schedule import needs_length, number_or_schedule, parse, value_at
from utils import natural_float, positive_float

STEPS = "0.4@0,0.2@1k,0.1@0.003M"
SHARES = "0.4@0,0.2@25%,0.1@75%"  # of 4,000 steps


@pytest.mark.parametrize("text", [STEPS, SHARES])
@pytest.mark.parametrize(
    ("steps", "value"),
    [(0, 0.4), (500, 0.3), (1000, 0.2), (2000, 0.15), (3000, 0.1), (4000, 0.1), (10**12, 0.1)],
)
def test_a_schedule_is_straight_between_its_points_and_stays_at_the_last(text, steps, value):
    assert value_at(text, steps, 4000) == pytest.approx(value, rel=1e-12)


def test_points_are_met_exactly():
    text = "3e-4@0,0.1@7k,3e-5@10M"
    assert [value_at(text, steps, None) for steps in (0, 7000, 10**7, 10**8)] == [
        3e-4, 0.1, 3e-5, 3e-5
    ]  # fmt: skip


def test_a_schedule_has_its_first_value_before_its_first_point():
    assert value_at("0.5@1000,0@2000", 10, None) == 0.5


def test_a_number_is_the_same_at_every_step():
    assert value_at(0.3, 0, None) == value_at(0.3, 10**9, 100) == 0.3


def test_shares_alone_need_a_length():
    assert needs_length(SHARES)
    assert not any(map(needs_length, (STEPS, 0.1, "0.1@0%")))


def test_a_schedule_pickles_as_it_is_a_text():
    convert = number_or_schedule(positive_float)
    assert pickle.loads(pickle.dumps(convert(" 0.4@0, 0.2@50% "))) == "0.4@0,0.2@50%"
    assert convert("0.25") == 0.25


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("1@0,2", "'2' is not VALUE@STEPS"),
        ("1@0,", "'' is not VALUE@STEPS"),
        ("1@", "'1@' is not"),
        ("1@5,2@x", "'2@x' is not"),
        ("1@0,2@10K", "'2@10K' is not"),
        ("1@0@1,2@5", "'1@0@1' is not"),
        ("1@0,2@0", "'0' does not come after"),
        ("1@10,2@5", "'5' does not come after"),
        ("1@50%,2@10%", "'10%' does not come after"),
        ("1@0,2@101%", "'101%' is no place"),
        ("1@-5,2@5", "'-5' is no place"),
        ("1@0,2@inf", "'inf' is no place"),
        ("1@nan,2@5", "'nan' is no place"),
        ("1@10%,2@500", "in agent steps and in shares"),
    ],
)
def test_a_text_that_is_no_schedule_is_refused_with_the_reason(text, reason):
    with pytest.raises(ValueError, match=reason.replace("@", ".")):
        parse(text)
    with pytest.raises(argparse.ArgumentTypeError):
        number_or_schedule(positive_float)(text)


def test_every_value_has_the_range_of_the_option_and_the_last_may_have_another():
    convert = number_or_schedule(positive_float, last=natural_float)
    assert convert("1@0,0@5") == "1@0,0@5"
    for text in ("0", "0@0,1@5", "nan@0,1@5", "1@0,-1@5", "1@0,inf@5"):
        with pytest.raises(argparse.ArgumentTypeError, match="is not a number"):
            convert(text)
