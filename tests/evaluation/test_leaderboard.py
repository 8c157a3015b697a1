from __future__ import annotations

import csv
import io
from typing import Any

import pytest
from rich.console import Console

from genforge.evaluation.leaderboard import build, comma_separated, markdown, render
from genforge.evaluation.protocol import ProtocolMismatch
from genforge.settings import UserError

PROTOCOL: dict[str, Any] = {
    "extractor": "classifier",
    "extractor_digest": "e",
    "feature_layer": "features",
    "logits_layer": "logits",
    "resizing": "none",
    "precision": "float32",
    "reference_digest": "d",
    "reference_split": "train",
    "reference_images": 1132,
    "images": 500,
    "settings": {"kid": {"subsets": 100, "subset_size": 500}},
    "seed": 2020,
    "versions": {"torch": "2.13.0"},
}


def result(name: str, family: str, fid: float, recall: float = 0.5, **changes: Any) -> dict[str, Any]:
    metrics = {
        key: {"mean": mean, "low": mean - 0.25, "high": mean + 0.25, "values": [mean] * 3}
        for key, mean in (("fid", fid), ("recall", recall))
    }
    return {"name": name, "family": family, "origin": name, "metrics": metrics, "protocol": {**PROTOCOL, **changes}}


RESULTS = [
    result("vae", "VAE", 30.0, 0.9),
    result("gaussian", "baseline", 40.0),
    result("floor", "real", 2.0, 0.99),
    result(
        "gan",
        "GAN",
        12.0,
        0.4,
    )
    | {"images_per_second": 12345.0, "steps": 100},
    result("diffusion", "diffusion", 50.0),
]


def test_floor_is_first_then_models_and_ceilings_from_best_to_worst() -> None:
    rows = build(RESULTS, "fid")["rows"]
    assert [(row["name"], row["role"], row["rank"]) for row in rows] == [
        ("floor", "floor", None),
        ("gan", "model", 1),
        ("vae", "model", 2),
        ("gaussian", "ceiling", None),
        ("diffusion", "model", 3),
    ]


def test_a_metric_that_is_better_higher_ranks_the_other_way_round() -> None:
    rows = build(RESULTS, "recall")["rows"]
    assert [row["name"] for row in rows if row["role"] == "model"] == ["vae", "diffusion", "gan"]


def test_the_order_of_results_does_not_matter() -> None:
    assert build(RESULTS, "fid") == build(RESULTS[::-1], "fid")


def test_mixed_protocols_are_refused() -> None:
    with pytest.raises(ProtocolMismatch, match="images: 500 against 1000"):
        build([*RESULTS, result("late", "GAN", 1.0, images=1000)], "fid")


def test_means_over_different_sampling_seeds_are_refused() -> None:
    seeds = [{**row, "seeds": [0, 1, 2]} for row in RESULTS]
    build(seeds, "fid")
    with pytest.raises(UserError, match="different sampling seeds") as caught:
        build([*seeds[:-1], {**seeds[-1], "seeds": [5, 6, 7, 8]}], "fid")
    assert "diffusion: [5, 6, 7, 8]" in str(caught.value)


def test_a_metric_that_the_judge_cannot_give_is_named_with_the_reason() -> None:
    board = build([{**row, "left_out": {"is": "no classes"}} for row in RESULTS], "fid")
    console = Console(record=True, width=160)
    console.print(render(board))
    assert "no IS: no classes" in console.export_text()
    assert "- no IS: no classes" in markdown(board)


def test_without_a_floor_there_is_no_leaderboard() -> None:
    with pytest.raises(UserError, match="no floor"):
        build([entry for entry in RESULTS if entry["name"] != "floor"], "fid")


def test_a_result_without_the_metric_to_rank_by_is_refused() -> None:
    with pytest.raises(UserError, match="vae has no KID"):
        build(RESULTS, "kid")


def test_what_is_known_of_a_model_stays_with_it() -> None:
    row = build(RESULTS, "fid")["rows"][1]
    assert (row["name"], row["images_per_second"], row["steps"], row["origin"]) == ("gan", 12345.0, 100, "gan")


def test_markdown_has_every_row_the_spread_the_protocol_and_the_best_in_bold() -> None:
    board = build(RESULTS, "fid")
    text = markdown(board)
    assert "| 1 | gan | GAN | **12.00 ± 0.25** | 0.400 ± 0.250 | 12,345 |" in text
    assert "| 2 | vae | VAE | 30.00 ± 0.25 | **0.900 ± 0.250** |  |" in text
    assert "| ceiling | gaussian | baseline |" in text
    assert board["protocol_name"] in text
    assert "- FID: " in text
    assert "lower is better" in text


def test_what_only_some_rows_have_stands_in_a_second_table_and_not_in_the_terminals() -> None:
    results = [dict(row, metrics=dict(row["metrics"])) for row in RESULTS]
    for row, value in ((results[0], 3.0), (results[3], 2.0)):  # vae and gan have a latent
        row["metrics"]["path_length"] = {"mean": value, "low": value - 0.5, "high": value + 0.5, "values": [value] * 3}
    board = build(results, "fid")
    text = markdown(board)
    assert "| gan | **2.0 ± 0.5** |" in text
    assert "| vae | 3.0 ± 0.5 |" in text
    assert "| gaussian |  |" in text
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(render(board))
    assert "Path length" not in console.export_text()
    rows = list(csv.DictReader(comma_separated(board).splitlines()))
    assert [row["path_length"] for row in rows] == ["", "2.0", "3.0", "", ""]


def test_a_terminal_shows_protocol_roles_and_directions() -> None:
    console = Console(width=120, record=True, file=io.StringIO())
    board = build(RESULTS, "fid")
    console.print(render(board))
    text = console.export_text()
    assert f"protocol {board['protocol_name']}" in text
    assert "FID ↓" in text
    assert "Recall ↑" in text
    assert text.index("floor") < text.index("gan") < text.index("ceiling") < text.index("diffusion")


def test_plots_get_a_row_for_each_name() -> None:
    rows = list(csv.DictReader(comma_separated(build(RESULTS, "fid")).splitlines()))
    assert [row["name"] for row in rows] == ["floor", "gan", "vae", "gaussian", "diffusion"]
    assert (rows[1]["fid"], rows[1]["fid_low"], rows[1]["rank"], rows[0]["rank"]) == ("12.0", "11.75", "1", "")
