"""What the benchmarks promise: a line of JSON from each tool, and a page that says what was missed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import images
import laps
import numpy as np
import portfolio
import pytest
import rows
import sampling
import simulated_search
import table
import train_step
import trial_length

from genforge.contracts import ImageShape

PROMISED = {"name", "version", "params_m", "batch", "device", "s_per_step", "s_min", "images_per_s", "peak_rss_mb"}
SMALL = ("--batch", "8", "--steps", "2", "--count", "300", "--data", "mnist", "--size", "8")
NARROW = ("--set", "networks.generator.width=4", "--set", "networks.critic.width=4")


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("benchmarks")
    return ["--files", str(folder / "nothing"), "--scratch", str(folder)]


def test_a_training_step_is_one_in_which_every_player_had_its_turn(
    places: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    train_step.main(["hinge-sngan", *SMALL, *NARROW, "--set", "objective.critic_steps=5", *places])
    line = json.loads(capsys.readouterr().out)
    assert line.keys() >= PROMISED | {"updates", "processor_s_per_step"}
    assert (line["updates"], line["batch"], line["data"]) == (6, 8, "mnist (random)"), "said where data are missing"
    assert 0 < line["s_min"] <= line["s_per_step"]
    assert line["images_per_s"] == pytest.approx(8 / line["s_per_step"], rel=0.01)


def test_drawing_is_timed_alike(places: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    narrow = ["--set", "networks.denoiser.backbone.width=8", "--set", "sampler={name: ddim, steps: 2}"]
    sampling.main(["ddpm", *SMALL, *narrow, *places])
    assert json.loads(capsys.readouterr().out).keys() >= PROMISED


def test_a_pace_counts_laps_and_not_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(laps.time, "perf_counter", lambda: now[0])
    taken = iter([100.0, 100.0, 1.0, 3.0, 2.0, 6.0, 1.0, 1.0])
    steps: list[int] = []

    def step() -> None:
        steps.append(1)
        now[0] += next(taken)

    pace = laps.Pace({"name": "x", "batch": 4}, "cpu", laps=3, lap=2, warm=2)
    pace.run(step)
    assert (len(steps), pace.clock.wall) == (8, [2.0, 4.0, 1.0])
    assert (pace.line()["s_per_step"], pace.line()["s_min"], pace.line()["images_per_s"]) == (2.0, 1.0, 2.0)


@pytest.mark.parametrize("name", [name for name, row in rows.ROWS.items() if isinstance(row, rows.Turns)])
def test_every_row_names_a_recipe_that_there_is(name: str) -> None:
    row = rows.ROWS[name]
    assert isinstance(row, rows.Turns)
    overrides = [value for key, value in zip(row.ours, row.ours[1:], strict=False) if key == "--set"]
    recipe = train_step.recipe_of(row.ours[1], overrides, {"steps": 1})
    side = {"mnist": 28, "cifar": 32}[row.data[1]] if len(row.data) == 2 else int(row.data[3])
    ImageShape(1, side, side).check()
    assert recipe.training["precision"] == ("bfloat16" if rows.BFLOAT16[1] in row.ours else "auto")


def measured(ratio: float) -> dict[str, Any]:
    ours = {"images_per_s": 100.0, "params_m": 2.0}
    peer = {"version": "peer 1", "params_m": 2.0, "images_per_s": 50.0, "peer": "examples-dcgan", "ratio": ratio}
    spread = {"ratio_low": ratio - 0.1, "ratio_high": ratio + 0.1, "processor_ratio": ratio}
    machine = {"cpu": "a", "cores": 4, "instructions": "AVX512", "bfloat16": True, "torch": "2", "python": "3"}
    machine |= {"commit": "abc", "load": 0.1, "date": "2026-01-01"}
    return {"ours": ours, "peers": [{**peer, **spread}], "rounds": 3, "machine": machine}


def test_the_page_names_what_was_missed_and_leaves_the_rest_as_it_was(tmp_path: Path) -> None:
    page, record = tmp_path / "page.md", tmp_path / "page.json"
    page.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    table.keep(record, "dcgan", measured(2.5))
    table.write(record, page)
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "**2.50x** (2.40 to 2.60)" in text and "| yes |" in text and "None." in text
    table.keep(record, "dcgan", measured(1.5))
    overhead = {"lines": [{"overhead_percent": 4.5, "pipeline_s": 10.4, "bare_s": 10.0}]}
    table.keep(record, "overhead", {**overhead, "machine": measured(1)["machine"]})
    table.write(record, page)
    assert "beside examples-dcgan: 1.50x where 2x was meant" in page.read_text()
    assert "beside the loop alone: 4.50 % more where at most 3 % more was meant" in page.read_text()


def test_the_page_in_the_docs_is_made_of_the_record_beside_it(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(table.PAGE.read_text())
    table.write(table.PAGE.with_suffix(".json"), page)
    assert page.read_text() == table.PAGE.read_text(), "run tests/benchmarks/table.py --write-only"


def test_a_trial_is_long_enough_once_it_orders_settings_as_whole_trainings_do() -> None:
    whole = {each: float(number) for number, each in enumerate("abcde", start=1)}
    same, turned = {**whole, "f": 0.1}, {each: -value for each, value in whole.items() if each != "e"}
    told = trial_length.told(whole, {0.1: turned, 0.5: same}, "b")
    assert told == {
        "settings": 4,
        "order": {0.1: -1.0, 0.5: 1.0},
        "best_ends_at": {0.1: 4.0, 0.5: 1.0},
        "own": 2.0,
        "best": 1.0,
    }
    assert trial_length.told(whole, {0.1: turned}, "e")["own"] is None


@pytest.mark.slow
def test_lengths_of_trials_are_measured_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--settings", "3", "--seeds", "1", "--images", "50", "--workers", "1", "--times", "0.01", "--shares", "0.5"]
    places = ["--scratch", str(tmp_path / "scratch"), "--into", str(tmp_path / "kept")]
    said = []
    for _ in range(2):
        trial_length.main(["vae-mlp", "--data", "digits", *few, *places])
        said.append(json.loads(capsys.readouterr().out))
        kept = sorted((tmp_path / "kept").iterdir())
        assert [path.name for path in kept] == [
            f"vae-mlp-digits-own-seed0-{share}-3-50.jsonl" for share in ("0.005", "0.01")
        ]
        assert {len(path.read_text().splitlines()) for path in kept} == {3}
        shutil.rmtree(tmp_path / "scratch", ignore_errors=True)  # so that nothing can be trained anew unseen
    assert said[0] == said[1] and said[0]["settings"] == 3 and said[0]["best"] <= said[0]["own"]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_portfolio_has_an_entry_for_each_kind_of_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two data sets of which one is best at ten latents and a large step, the other at forty and a small one."""
    random = np.random.default_rng(0)
    drawn = [
        (int(random.choice([10, 20, 40])), float(np.exp(random.uniform(*np.log([3e-4, 3e-3]))))) for _ in range(40)
    ]
    best = {"a": (10, 2e-3), "b": (40, 5e-4)}
    for name, (latents, rate) in best.items():
        rows = []
        for number, (size, each) in enumerate([(20, 1e-3), *drawn]):
            fid = 3.0 * np.exp(0.5 * abs(np.log(each / rate)) + 0.3 * abs(np.log(size / latents)))
            chosen = {"objective.latent_size": size, "training.optimizer.learning_rate": each}
            rows.append(json.dumps({"settings": chosen, "fids": [fid * (1.001 if number % 2 else 0.999)]}))
        (tmp_path / name).write_text("\n".join(rows))
    files = [str(tmp_path / name) for name in best]
    portfolio.main(["choose", "vae-mlp", *files, "--entries", "3", "--held-out", files[0]])
    *entries, held_out = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    found = {entry["entry"]["objective.latent_size"]: entry["entry"] for entry in entries[:2]}
    for latents, rate in best.values():
        assert found[latents]["training.optimizer.learning_rate"] == pytest.approx(rate, rel=0.3)
    gains = [entry["lowers_best_by_percent"] for entry in entries]
    assert gains[0] > 15 and gains[1] > 15 and gains[2] < 2, "what a third would add is told"
    assert len({json.dumps(entry["entry"]) for entry in entries}) == 3, "each once"
    assert max(held_out["entries_beat"]) > 0.9 > held_out["own_beats"] > 0.1
    assert held_out["beats_best_of_twelve"] > 0.3


def test_what_peers_bring_along_is_on_the_path_of_nobody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "somewhere")
    monkeypatch.setattr(table, "HERE", tmp_path)
    about = 'import json, os, sys; print(json.dumps({"path": os.environ["PYTHONPATH"], "batch": 8}), flush=True)'
    (tmp_path / "tool.py").write_text(about)
    tool = rows.Tool("work", ("tool.py",), "peer", "path")
    assert [line["path"] for line in table.measure_tool(tool, [], "")["lines"]] == ["somewhere"]

    lap = json.dumps({"wall": 1.0, "processor": 1.0, "peak_rss_mb": 1})
    for name in ("train_step.py", "peer_step.py"):
        (tmp_path / name).write_text(f"{about}\nfor _ in sys.stdin: print({lap!r}, flush=True)")
    row = rows.Turns("work", ("train_step",), (), (rows.Peer("peer", 1.0),), rounds=1)
    found = table.measure_turns(row, [], tmp_path / "peers", tmp_path / "log")
    assert found["ours"]["path"] == "somewhere"
    assert found["peers"][0]["path"] == f"somewhere{os.pathsep}{tmp_path / 'peers'}"


def test_images_that_are_missing_are_random_ones_of_their_number(tmp_path: Path) -> None:
    assert images.SHAPES["cifar"] == (50_000, 32, 32, 3) and images.SHAPES["mnist"] == (60_000, 28, 28, 1)
    assert images.source_of("cifar", None, tmp_path)[0] is None
    (tmp_path / "cifar10").mkdir()
    settings, folder = images.source_of("cifar", 64, tmp_path)
    assert settings is not None and (settings.source, settings.image_size) == ("image_folder", 64)
    assert folder == tmp_path / "cifar10"


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_no_simulated_search_is_sooner_than_one_that_knows_the_best_settings(tmp_path: Path) -> None:
    random, file = np.random.default_rng(0), tmp_path / "trials.jsonl"
    with file.open("w") as lines:
        for _ in range(40):
            place, latents = random.random(), int(random.choice([10, 20, 40]))
            settings = {
                "objective.latent_size": latents,
                "training.optimizer.learning_rate": 3e-4 * 10**place,
            }
            end = np.exp(4.0 * (place - 0.7) ** 2 + 0.3 * (latents != 20) + 0.03 * random.standard_normal())
            looks = [float(end * (3.0 - 2.0 * look / 11)) for look in range(12)]
            lines.write(json.dumps({"settings": settings, "fids": looks}) + "\n")
    landscape = simulated_search.Landscape("vae-mlp", file)
    best = landscape.best_settings()
    assert best["objective.latent_size"] == 20
    assert best["training.optimizer.learning_rate"] == pytest.approx(3e-4 * 10**0.7, rel=0.15)

    theirs = [simulated_search.plain(landscape, 6, seed, 2.0) for seed in range(30)]
    ratios = {}
    for name in ("random", "best settings from the fifth trial on", "best settings"):
        kind = simulated_search.KINDS[name]
        searches = [simulated_search.ours(landscape, kind, 24, 4, seed, 2.0, best) for seed in range(8)]
        ratios[name] = simulated_search.compared(theirs, searches)["ratio"]
        for done in searches:
            assert len(done) == 24 or name == "random", "of those that know the best nothing is pruned"
            assert done[0][0] >= simulated_search.OURS_STARTS + 2.0, "a value is known when its trial is done"
    assert ratios["random"] < ratios["best settings from the fifth trial on"] < ratios["best settings"]
