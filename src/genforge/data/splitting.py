"""Which inputs are kept, and in which split each stands: a function of contents and the run's seed, of nothing else.

Duplicates are inputs with the same pixels after preparation. One of them is kept: one of the official test split before
any other, then the first by the digest of its file, then by its label. What is dropped says whose pixels it has, and
whether that one stood under another label.

Within each class, inputs are ordered by lot, a keyed hash of their contents (`decoding.draw_lot`); the first go to
test, the next to validation, the rest to train. Names and order of files have no say, and adding images moves few of
the others. A source with an official test split keeps it, and only validation is cut from the rest.
"""

from __future__ import annotations

import polars as pl

from genforge.settings import UserError

SPLITS = ("train", "validation", "test")
KEPT, DUPLICATE, QUARANTINED = "kept", "duplicate", "quarantined"
SAME_PIXELS = "same pixels"
OTHER_LABEL = "same pixels under another label"
IN_TEST = "same pixels as an official test image"


def with_verdicts(inputs: pl.DataFrame) -> pl.DataFrame:
    """Inputs with their `verdict` (kept, duplicate or quarantined), and `reason` and `detail` of duplicates filled in.

    Args:
        inputs: columns path, part (all, train or test), label (name or null), digest, content, reason (empty: good),
            detail. Rows stay in their order.
    """
    chosen = (
        inputs.filter((pl.col("reason") == "") & pl.col("content").is_duplicated())
        .sort(pl.col("part") != "test", "digest", pl.col("label").fill_null(""), "path")
        .unique("content", keep="first", maintain_order=True)
        .select("content", first="path", first_part="part", first_label="label")
    )
    if not len(chosen):
        return inputs.with_columns(
            verdict=pl.when(pl.col("reason") != "").then(pl.lit(QUARANTINED)).otherwise(pl.lit(KEPT))
        )
    duplicate = (pl.col("reason") == "") & (pl.col("path") != pl.col("first"))
    elsewhere = (pl.col("first_part") == "test") & (pl.col("part") != "test")
    relabelled = pl.col("label").ne_missing(pl.col("first_label"))
    return (
        inputs.join(chosen, on="content", how="left", maintain_order="left")
        .with_columns(
            verdict=pl.when(pl.col("reason") != "")
            .then(pl.lit(QUARANTINED))
            .when(duplicate)
            .then(pl.lit(DUPLICATE))
            .otherwise(pl.lit(KEPT)),
            reason=pl.when(duplicate & elsewhere)
            .then(pl.lit(IN_TEST))
            .when(duplicate & relabelled)
            .then(pl.lit(OTHER_LABEL))
            .when(duplicate)
            .then(pl.lit(SAME_PIXELS))
            .otherwise("reason"),
            detail=pl.when(duplicate).then("first").otherwise("detail"),
        )
        .drop("first", "first_part", "first_label")
    )


def with_splits(inputs: pl.DataFrame, validation: float, test: float) -> pl.DataFrame:
    """Judged inputs with their `split` (null unless kept). Rows stay in their order.

    Args:
        inputs: as from `with_verdicts`, with the column `lot`.
        validation: share of what is not test, rounded in each class.
        test: share of all, rounded in each class; not used where there is an official test split.

    Raises:
        UserError: a class has a single image, which cannot be both learnt from and held out, or a split stays empty.
    """
    wanted = inputs.select("row", "part", "label", "lot", "content", "verdict")  # sorting moves every column along
    kept = wanted.filter(pl.col("verdict") == KEPT).sort("lot", "content")
    official = (inputs["part"] == "test").any()
    rest = kept.filter(pl.col("part") != "test")
    single = rest.group_by("label").len().filter(pl.col("len") < 2).sort("label")
    if len(single):
        names = ", ".join("all images" if name is None else repr(name) for name in single["label"][:5])
        raise UserError(
            f"{len(single)} of the classes have a single usable image ({names}); a class needs at least 2, one to "
            f"learn from and one to hold out: add images, or remove the class"
        )
    # Columns first: an expression over classes that stands in another is computed wherever it stands.
    rest = rest.with_columns(count=pl.len().over("label").cast(pl.Int64), rank=pl.int_range(pl.len()).over("label"))
    count, rank = pl.col("count"), pl.col("rank")
    tests = pl.lit(0) if official or not test else (count * test).round().cast(pl.Int64).clip(1, count - 1)
    validations = ((count - tests) * validation).round().cast(pl.Int64).clip(0, count - tests - 1)
    split = (
        pl.when(rank < tests)
        .then(pl.lit("test"))
        .when(rank < tests + validations)
        .then(pl.lit("validation"))
        .otherwise(pl.lit("train"))
    )
    placed = pl.concat(
        [
            rest.select("row", split=split),
            kept.filter(pl.col("part") == "test").select("row", split=pl.lit("test")),
        ]
    )
    found = set(placed["split"].unique())
    if missing := [name for name in ("train", "validation") if name not in found]:
        raise UserError(
            f"no image is left for {' and '.join(missing)}: {len(rest)} usable images in {rest['label'].n_unique()} "
            f"classes, data.validation is {validation}; add images, or raise data.validation"
        )
    return inputs.join(placed, on="row", how="left", maintain_order="left")
