"""Verdicts and splits are a function of contents and seed, and of nothing else."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from genforge.data.decoding import draw_lot
from genforge.data.splitting import (
    DUPLICATE,
    IN_TEST,
    KEPT,
    OTHER_LABEL,
    QUARANTINED,
    SAME_PIXELS,
    with_splits,
    with_verdicts,
)
from genforge.settings import UserError


def table(contents: list[int], labels: list[str | None], parts: list[str] | None = None, seed: int = 0) -> pl.DataFrame:
    """Inputs whose contents are numbers; -1 is a broken one."""
    names = [content.to_bytes(16, "big") if content >= 0 else b"" for content in contents]
    return pl.DataFrame(
        {
            "path": [f"{i:05d}" for i in range(len(contents))],
            "part": parts or ["all"] * len(contents),
            "label": labels,
            "digest": names,
            "content": names,
            "lot": [draw_lot(name, seed) for name in names],
            "reason": ["truncated" if content < 0 else "" for content in contents],
            "detail": [""] * len(contents),
        },
        schema_overrides={"label": pl.String},
    ).with_row_index("row")


def split_of(inputs: pl.DataFrame, contents: list[int], **shares: float) -> dict[int, str]:
    shares = {"validation": 0.1, "test": 0.3, **shares}
    found = with_splits(with_verdicts(inputs), **shares)
    return {contents[row]: split for row, split in found.select("row", "split").iter_rows() if split}


def test_the_split_does_not_know_the_order_of_inputs() -> None:
    contents = list(range(300))
    labels = ["ab"[content % 2] for content in contents]
    shuffled = np.random.default_rng(0).permutation(300).tolist()
    straight = split_of(table(contents, labels), contents)
    assert split_of(table(shuffled, ["ab"[content % 2] for content in shuffled]), shuffled) == straight
    assert split_of(table(contents, labels, seed=1), contents) != straight


def test_shares_hold_in_every_class() -> None:
    contents = list(range(300))
    split = split_of(table(contents, ["ab"[content % 3 == 0] for content in contents]), contents)
    for members, total in ((range(0, 300, 3), 100), ([c for c in contents if c % 3], 200)):
        found = [split[content] for content in members]
        assert found.count("test") == round(0.3 * total)
        assert found.count("validation") == round(0.1 * 0.7 * total)


def test_growing_data_move_few_images() -> None:
    small, large = list(range(1000)), list(range(1100))
    before, after = split_of(table(small, [None] * 1000), small), split_of(table(large, [None] * 1100), large)
    assert sum(before[content] != after[content] for content in small) < 60


def test_one_of_each_content_is_kept_and_the_others_say_why() -> None:
    contents = [1, 2, 1, 1, 3, -1, 4, 5]
    labels = ["b", "b", "b", "a", "a", "a", "a", "b"]
    found = with_verdicts(table(contents, labels))
    assert found["verdict"].to_list() == [DUPLICATE, KEPT, DUPLICATE, KEPT, KEPT, QUARANTINED, KEPT, KEPT]
    assert found["reason"].to_list() == [OTHER_LABEL, "", OTHER_LABEL, "", "", "truncated", "", ""]
    assert found["detail"][0] == "00003"
    assert with_verdicts(table([7, 7], ["a", "a"]))["reason"].to_list() == ["", SAME_PIXELS]


def test_an_official_test_split_stays_and_drives_its_images_out_of_train() -> None:
    contents = [*range(50), *range(40, 60)]
    parts = ["train"] * 50 + ["test"] * 20
    found = with_splits(with_verdicts(table(contents, ["a"] * 70, parts)), validation=0.1, test=0.9)
    assert found["reason"].to_list()[40:50] == [IN_TEST] * 10
    assert found.filter(split="test")["row"].to_list() == list(range(50, 70))
    assert len(found.filter(split="train")) == 36 and len(found.filter(split="validation")) == 4


def test_a_class_with_a_single_image_is_an_error_that_names_it() -> None:
    with pytest.raises(UserError, match="'lonely'"):
        split_of(table([1, 2, 3], ["a", "a", "lonely"]), [1, 2, 3])


def test_an_empty_validation_split_is_an_error() -> None:
    with pytest.raises(UserError, match=r"data\.validation"):
        split_of(table([1, 2, 3], [None] * 3), [1, 2, 3])
