"""Train, control and report rows: given, carved, sampled, kept apart."""

from __future__ import annotations

import pytest

from msft_lite.data.rows import Row
from msft_lite.data.splits import Given, Samples, normalised, split_rows
from msft_lite.errors import DataError


def rows(prompts: str, file: str = "train") -> tuple[Row, ...]:
    """One row a word."""
    words = prompts.split()
    return tuple(Row(f"{file}, line {n}", word, "x") for n, word in enumerate(words, start=1))


def prompts_of(some: tuple[Row, ...]) -> list[str]:
    return [row.prompt for row in some]


NUMBERS = " ".join(map(str, range(100)))


def test_given_splits_stay_as_they_are() -> None:
    given = Given(rows("a b c"), rows("d e", "control"), rows("f", "report"))
    splits = split_rows("t", given, samples=Samples(), seed=1)
    assert (splits.train, splits.control, splits.report) == (
        given.train,
        given.control,
        given.report,
    )
    assert splits.notes == ()


def test_carving_is_a_partition_and_depends_on_the_seed() -> None:
    samples = Samples(control=10, report=20)
    one = split_rows("t", Given(rows(NUMBERS)), samples=samples, seed=1)
    assert (len(one.train), len(one.control), len(one.report)) == (70, 10, 20)
    assert {*one.train, *one.control, *one.report} == set(rows(NUMBERS))
    assert one == split_rows("t", Given(rows(NUMBERS)), samples=samples, seed=1)
    assert one.report != split_rows("t", Given(rows(NUMBERS)), samples=samples, seed=2).report
    assert one.report != split_rows("u", Given(rows(NUMBERS)), samples=samples, seed=1).report
    assert prompts_of(one.train) == sorted(prompts_of(one.train), key=int)


def test_the_held_out_rows_do_not_depend_on_the_training_sample() -> None:
    few = split_rows("t", Given(rows(NUMBERS)), samples=Samples(5, 10, 20), seed=1)
    many = split_rows("t", Given(rows(NUMBERS)), samples=Samples(50, 10, 20), seed=1)
    assert (few.control, few.report) == (many.control, many.report)
    assert set(few.train) < set(many.train)
    assert len(few.train) == 5


def test_repeated_prompts_leave_the_training_rows() -> None:
    given = Given(rows("a B c c d"), rows("b e", "control"), rows("C f", "report"))
    splits = split_rows("t", given, samples=Samples(), seed=1)
    assert prompts_of(splits.train) == ["a", "d"]
    assert splits.notes == ("dropped 3 training rows that repeat held-out rows",)


def test_control_rows_that_repeat_report_rows_are_dropped() -> None:
    given = Given(rows("a"), rows("b c", "control"), rows("c d", "report"))
    splits = split_rows("t", given, samples=Samples(), seed=1)
    assert prompts_of(splits.control) == ["b"]
    assert splits.notes == ("dropped 1 control rows that repeat report rows",)


def test_a_carved_row_takes_its_repeats_with_it() -> None:
    given = Given(rows(NUMBERS + " " + NUMBERS))
    splits = split_rows("t", given, samples=Samples(control=10, report=20), seed=1)
    assert len(set(prompts_of((*splits.control, *splits.report)))) == 30
    assert len(splits.train) == 140
    assert splits.notes == (
        "carved 20 report rows from the training rows",
        "carved 10 control rows from the training rows",
        "dropped 30 training rows that repeat held-out rows",
        "kept 70 training rows that repeat the prompt of an earlier one",
    )


def test_carved_by_default() -> None:
    given = Given(rows(" ".join(map(str, range(800)))))
    splits = split_rows("t", given, samples=Samples(), seed=1)
    assert (len(splits.train), len(splits.control), len(splits.report)) == (100, 200, 500)


def test_a_control_split_is_carved_beside_a_given_report_split() -> None:
    given = Given(rows("a b c"), None, rows("a b", "report"))
    with pytest.raises(DataError, match="cannot carve 1 control rows"):
        split_rows("t", given, samples=Samples(control=1), seed=1)
    given = Given(rows("a b c d"), None, rows("a b", "report"))
    splits = split_rows("t", given, samples=Samples(control=1), seed=1)
    assert {*prompts_of(splits.control), *prompts_of(splits.train)} == {"c", "d"}


def test_samples_are_caps() -> None:
    given = Given(rows("a b"), rows("c d e", "control"), rows("f", "report"))
    splits = split_rows("t", given, samples=Samples(train=3, control=2, report=4), seed=1)
    assert (len(splits.train), len(splits.control), len(splits.report)) == (2, 2, 1)
    assert splits.notes == (
        "asked for 4 report rows, found 1",
        "asked for 3 training rows, found 2",
    )


@pytest.mark.parametrize(
    ("given", "samples", "message"),
    [
        (Given(rows("a b")), Samples(control=1), "cannot carve 500 report rows.*has 2 distinct"),
        (Given(rows("a b")), Samples(report=1), "cannot carve 200 control rows.*has 1 distinct"),
        (Given(rows("a b")), Samples(control=1, report=1), "cannot carve 1 control rows"),
        (Given(rows("a b")), Samples(control=1, report=2), "cannot carve 2 report rows"),
        (Given(rows("a b")), Samples(control=1, report=0), "data.report_samples = 0"),
        (
            Given(rows("a b"), rows("a", "control"), rows("B", "report")),
            Samples(),
            "no training rows are left of 2: the 2 held-out prompts",
        ),
        (
            Given(rows("a"), rows("b", "control"), rows("b", "control")),
            Samples(),
            "every row of the control split is in the report split.*other rows",
        ),
    ],
)
def test_refused(given: Given, samples: Samples, message: str) -> None:
    with pytest.raises(DataError, match=f"task 't'.*{message}"):
        split_rows("t", given, samples=samples, seed=1)


def test_normalised() -> None:
    assert normalised(" \uff21 \n b\t") == normalised("a B")
    assert normalised("a b") != normalised("ab")


def test_the_report_rows_can_steer() -> None:
    given = Given(rows("a b c"), rows("d e", "control"), rows("C f", "report"))
    splits = split_rows("t", given, samples=Samples(), seed=1, steer_on="report")
    assert splits.control == splits.report == rows("C f", "report")
    assert prompts_of(splits.train) == ["a", "b"]
    carved = split_rows(
        "t", Given(rows(NUMBERS)), samples=Samples(report=20), seed=1, steer_on="report"
    )
    assert len(carved.train) == 80


def test_repeats_can_be_refused_with_their_places() -> None:
    given = Given(rows("a B c c d"), rows("b e", "control"), rows("f", "report"))
    with pytest.raises(DataError, match=r"1 training rows .*train, line 2 \(as control, line 1\)"):
        split_rows("t", given, samples=Samples(), seed=1, on_overlap="refuse")
    clean = Given(rows("a c"), rows("b", "control"), rows("f", "report"))
    assert split_rows("t", clean, samples=Samples(), seed=1, on_overlap="refuse").notes == ()


def test_repeats_within_a_split_are_kept_and_told() -> None:
    given = Given(rows("a A b"), rows("c", "control"), rows("d d", "report"))
    splits = split_rows("t", given, samples=Samples(), seed=1)
    assert len(splits.train) == 3
    assert sorted(splits.notes) == [
        "kept 1 report rows that repeat the prompt of an earlier one",
        "kept 1 training rows that repeat the prompt of an earlier one",
    ]
