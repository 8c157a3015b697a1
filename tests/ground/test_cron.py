"""What is taken for times of a schedule is what Prefect keeps, and what is not is told with its field."""

from __future__ import annotations

import pytest

from genforge.cron import check_cron


@pytest.mark.parametrize(
    "text",
    [
        "0 3 * * *",
        "*/15 0-6/2 1,15 jan-MAR mon-fri",
        "59 23 31 12 7",
        "0 22-2 * * fri-sun",  # over midnight, over the week's end
        " 05  3 * * 0\n",
        "5/10 * * * *",
    ],
)
def test_what_cron_writes_is_taken_and_prefect_takes_it_too(text: str) -> None:
    from prefect.client.schemas.schedules import CronSchedule

    assert check_cron(text) == text
    CronSchedule(cron=text)


@pytest.mark.parametrize("text", ["", "nonsense", "0 3 * *", "0 3 * * * 0", "@daily"])
def test_a_time_is_five_fields(text: str) -> None:
    with pytest.raises(ValueError, match=r"^five fields such as '0 3 . . .'.*weekday$"):
        check_cron(text)


@pytest.mark.parametrize(
    ("field", "texts"),
    [
        (
            "minute",
            ["60 * * * *", "-1 * * * *", "1-2-3 * * * *", "1,,2 * * * *", "*/0 * * * *", "1/ * * * *", "x * * * *"],
        ),
        ("hour", ["0 24 * * *", "0 mon * * *", "0 1.5 * * *", "0 ** * * *"]),
        ("day of the month", ["0 3 0 * *", "0 3 32 * *", "0 3 L * *", "0 3 \u0663 * *"]),
        ("month", ["0 3 * 13 *", "0 3 * sun *", "0 3 * january *"]),
        ("weekday", ["0 3 * * 8", "0 3 * * mon#1", "0 3 * * ?"]),
    ],
)
def test_a_field_that_no_time_meets_is_told_with_its_name(field: str, texts: list[str]) -> None:
    for text in texts:
        with pytest.raises(ValueError, match=f"is no {field}:"):
            check_cron(text)
