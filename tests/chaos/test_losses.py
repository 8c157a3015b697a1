"""A campaign can lose: each of its checks sees what it is there for, and its plan hangs on the seed alone."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path

import losses
import pytest
from blows import SIGNALS, VICTIMS, blows
from losses import Field
from tiny_project import TRIALS
from victims import kind_of


@pytest.fixture
def field(tmp_path: Path) -> Field:
    """A project whose results are those of its reference."""
    for name in ("project", "reference"):
        model = tmp_path / name / "results" / "models" / "gan"
        model.mkdir(parents=True)
        (model / "weights.safetensors").write_bytes(bytes(range(64)))
        curve = tmp_path / name / "results" / "curves" / "gan.csv"
        curve.parent.mkdir()
        curve.write_text(f"step,loss,images_per_second\n1,0.5,{len(name)}\n")
        table = tmp_path / name / "results" / "search" / "gan" / "trials.csv"
        table.parent.mkdir(parents=True)
        with table.open("w") as file:
            rows = csv.writer(file)
            rows.writerow(["number", "state", "value", "reason"])
            rows.writerows([number, "complete", 0.25, ""] for number in range(TRIALS))
    return Field(tmp_path / "project", tmp_path / "reference", {})


def test_equal_results_are_whole(field: Field) -> None:
    assert [check(field) for check in losses.RESULTS] == [[], [], []]


def test_one_bit_of_a_weight_is_a_loss(field: Field) -> None:
    weights = field.project / "results" / "models" / "gan" / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[17] ^= 1
    weights.write_bytes(content)
    assert losses.same_results(field) == ["results/models/gan/weights.safetensors differs from the uninterrupted run's"]
    weights.unlink()
    assert losses.same_results(field) == ["results/models/gan/weights.safetensors is missing"]


def test_a_curve_may_differ_in_its_speed_alone(field: Field) -> None:
    curve = field.project / "results" / "curves" / "gan.csv"
    curve.write_text(curve.read_text().replace("0.5", "0.6"))
    assert len(losses.curves_are_whole(field)) == 1


CHANGES = [("0,complete,0.25", "0,complete,0.26"), ("1,complete", "1,failed"), ("2,complete,0.25,\r\n", "")]


@pytest.mark.parametrize("change", CHANGES)
def test_another_value_a_failed_trial_and_a_missing_one_are_losses(field: Field, change: tuple[str, str]) -> None:
    table = field.project / "results" / "search" / "gan" / "trials.csv"
    text = table.open(newline="").read()
    assert change[0] in text
    table.write_text(text.replace(*change))
    assert len(losses.whole_searches(field)) == 1


def test_a_trial_that_nobody_ended_is_a_loss(field: Field) -> None:
    import optuna
    from optuna.storages.journal import JournalFileBackend

    folder = field.project / ".genforge" / "search" / "gan" / "digest"
    folder.mkdir(parents=True)
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(folder / "journal.log")))
    study = optuna.create_study(storage=storage)
    study.tell(study.ask(), 1.0)
    assert losses.whole_searches(field) == []
    study.ask()
    assert losses.whole_searches(field) == ["1 trials of gan are RUNNING"]


def test_temporary_files_are_found(field: Field) -> None:
    assert losses.no_temporary_files(field) == []
    (field.project / "results" / "models" / ".gan.0123abcd.tmp").mkdir()
    (field.project.parent / "project-temporary" / "genforge-x").mkdir()
    assert len(losses.no_temporary_files(field)) == 2


def test_a_seed_is_a_plan() -> None:
    def plan(seed: int) -> list[object]:
        return list(itertools.islice(blows(seed, 5.0), 2000))

    assert plan(1) == plan(1)
    assert plan(1) != plan(2)
    assert {blow.signal for blow in plan(1)} == set(SIGNALS)
    assert all(sorted(blow.victims) == sorted(VICTIMS) for blow in plan(1))
    first = [blow.victims[0] for blow in plan(1)]
    assert set(first) == set(VICTIMS)
    # Named first as often as the weights say, within four standard deviations.
    share = VICTIMS["train"] / sum(VICTIMS.values())
    assert abs(first.count("train") - 2000 * share) < 4 * (2000 * share * (1 - share)) ** 0.5


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("python /venv/bin/genforge step train gan", "train"),
        ("python /venv/bin/genforge step evaluate floor", "evaluate"),
        ("python /venv/bin/genforge step resolve", "step"),
        ("python3 /venv/bin/dvc repro", "dvc"),
        ("python -m genforge.ownership dvc repro --single-item rank", "dvc"),
        ("python -m genforge.ownership prefect server start", "prefect"),
        ("python -P -m genforge.search.fork_server", "worker"),
        ("python -P -m genforge.tracking.uploader /project", "uploader"),
        ("python -m pipelines.retrain --jobs 4", "flow"),
        ("sh -c genforge step train gan", None),
        ("git status", None),
    ],
)
def test_victims_are_told_apart_by_their_command_lines(line: str, kind: str | None) -> None:
    assert kind_of(line.split()) == kind
