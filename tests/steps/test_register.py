"""The step `register` on real digits and a real judge; only the weights of the models are drawn instead of trained."""

from __future__ import annotations

import importlib
import json
import pkgutil
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from genforge.files import digest_file, read_array, read_json
from genforge.registry.registry import Registry
from genforge.settings import UserError
from genforge.steps.draw import draw
from genforge.steps.lineage import tell
from genforge.steps.project import Project
from genforge.steps.register import run
from genforge.tracking import mlflow_store
from genforge.tracking import runs as tracking
from tests.trained_models import trained_folder

pytestmark = pytest.mark.slow

FAMILIES = {"gan": "gan", "rough-gan": "gan", "denoiser": "diffusion"}


def settings(images: int = 50) -> dict[str, Any]:
    small = {"steps": 10, "width": 8}
    return {
        "evaluation": {"images": images},
        # Models that learned nothing pass no other gate, and here the better of two has to win, however closely.
        "gates": {"finite": {}, "better": {"probability": 0.5}, "coverage": {"limit": 1.0}},
        "extractor": small,
        "recipes": {"gan": {"from": "hinge-sngan"}, "rough-gan": {"from": "hinge-sngan"}, "denoiser": {"from": "ddpm"}},
    }


def step(project: Project, name: str, recipe: str | None = None) -> None:
    importlib.import_module(f"genforge.steps.{name}").run(project, recipe)


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory, new_store: Path) -> Path:
    """A project up to its leaderboard."""
    root = tmp_path_factory.mktemp("judged")
    shutil.copyfile(new_store, root / new_store.name)
    (root / "params.yaml").write_text(yaml.safe_dump(settings()))
    project = Project.load(root)
    for name in ("resolve", "ingest", "prepare", "extractor"):
        step(project, name)
    for seed, (name, family) in enumerate(FAMILIES.items()):
        trained_folder(project.model(name), family, name, seed)
    judge(project)
    return root


def judge(project: Project) -> None:
    for name in FAMILIES:
        step(project, "sample", name)
        step(project, "evaluate", name)
    step(project, "evaluate", "floor")
    step(project, "gates")
    step(project, "rank")


@pytest.fixture
def project(judged: Path, tmp_path: Path) -> Project:
    shutil.copytree(judged, tmp_path / "project")
    return Project.load(tmp_path / "project")


@pytest.fixture(scope="module")
def registered(judged: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The same after the step, to be looked at and not changed."""
    root = tmp_path_factory.mktemp("registered") / "project"
    shutil.copytree(judged, root)
    project = Project.load(root)
    run(project)
    return project


def fid(project: Project) -> dict[str, float]:
    return {row["name"]: row["metrics"]["fid"]["mean"] for row in read_json(project.leaderboard)["rows"]}


def test_the_best_of_each_family_is_registered_once(project: Project) -> None:
    run(project)
    result = read_json(project.registered)
    best_gan = min(("gan", "rough-gan"), key=lambda name: fid(project)[name])
    best = min(FAMILIES, key=lambda name: fid(project)[name])
    versions = {name: entry["version"] for name, entry in result["versions"].items()}
    assert set(versions) == {best_gan, "denoiser"}
    assert result["aliases"] == {
        "best-gan": versions[best_gan],
        "best-diffusion": versions["denoiser"],
        "staging": versions[best],
    }
    assert result["staging"]["version"] == versions[best]
    assert "is the first to hold it" in result["staging"]["reason"]

    run(project)
    again = read_json(project.registered)
    assert {name: (entry["version"], entry["new"]) for name, entry in again["versions"].items()} == {
        name: (version, False) for name, version in versions.items()
    }
    assert again["aliases"] == result["aliases"]
    assert "holds it already" in again["staging"]["reason"]
    assert len(Registry(project.root, "digits").history()) == 3


def test_a_version_knows_where_it_comes_from(registered: Project) -> None:
    registry = Registry(registered.root, "digits")
    version = registry.holder("best-diffusion")
    assert version is not None
    board = read_json(registered.leaderboard)
    assert (version.recipe, version.family, version.tags["genforge.origin"]) == ("denoiser", "diffusion", "ddpm")
    assert version.tags["genforge.protocol"] == board["protocol_name"]
    assert version.tags["genforge.data"] == read_json(registered.model("denoiser") / "model.json")["data"]["digest"]
    assert version.mean("fid", board["protocol_name"]) == fid(registered)["denoiser"]
    (move,) = registry.history("best-diffusion")
    assert move.evidence["candidate"]["fid"]["mean"] == fid(registered)["denoiser"]
    links = {link.what: link for link in tell(registered, "best-diffusion", registered.root / "chain.svg")}
    assert list(links) == [
        "alias",
        "registered version",
        "MLflow run",
        "recipe",
        "git commit",
        "prepared data",
        "raw images",
    ]
    assert dict(links["recipe"].digests)["resolved recipe"] == digest_file(registered.recipe_file("denoiser"))
    assert dict(links["prepared data"].digests) == {"contents of all splits": version.tags["genforge.data"]}
    assert links["prepared data"].words == ("train 1,132, validation 126, test 539",)
    assert links["raw images"].name == "digits, 1,797 images"
    assert dict(links["git commit"].digests)["commit"] == "not recorded"  # the project is in no repository
    drawn = {path.name for path in registered.lineage.glob("*.svg")}
    assert drawn == {"staging.svg", "best-gan.svg", "best-diffusion.svg"}
    assert (registered.root / "chain.svg").read_bytes() == (registered.lineage / "best-diffusion.svg").read_bytes()
    with pytest.raises(UserError, match=r"nobody holds digits@best-difusion.*best-diffusion"):
        tell(registered, "digits@best-difusion")


def test_the_run_shows_the_leaderboard(registered: Project) -> None:
    client = mlflow_store.connect(registered.root)
    (experiment,) = (client.get_experiment_by_name("digits"),)
    (record,) = client.search_runs([experiment.experiment_id], "tags.`genforge.kind` = 'register'")
    assert record.data.metrics["fid/gan"] == fid(registered)["gan"]
    files = {item.path for item in client.list_artifacts(record.info.run_id)}
    assert {"leaderboard-table.json", "leaderboard.json", "leaderboard.md"} <= files
    table = client.load_table(experiment.experiment_id, "leaderboard-table.json", [record.info.run_id])
    assert dict(zip(table["name"], table["fid"], strict=True)) == pytest.approx(fid(registered))
    assert record.info.status == "FINISHED"


def test_a_registered_model_draws_what_was_judged(registered: Project, tmp_path: Path) -> None:
    staged = Registry(registered.root, "digits").holder("staging")
    assert staged is not None
    expected = read_array(registered.samples(staged.recipe) / "seed-2.npy")
    draw("digits@staging", 50, 2, tmp_path / "drawn.npy", registered.root)
    assert np.array_equal(read_array(tmp_path / "drawn.npy"), expected)
    draw(f"digits/{staged.number}", 9, 2, tmp_path / "drawn.png", registered.root)
    with Image.open(tmp_path / "drawn.png") as picture:
        assert picture.format == "PNG"
    draw(str(registered.model(staged.recipe)), 3, 2, tmp_path / "folder", registered.root)
    names = sorted(path.name for path in (tmp_path / "folder").iterdir())
    assert names == ["00000.png", "00001.png", "00002.png"]
    with Image.open(tmp_path / "folder" / "00001.png") as picture:
        assert np.array_equal(np.asarray(picture), expected[1, ..., 0])


def test_a_holder_of_another_protocol_is_judged_by_todays(project: Project) -> None:
    run(project)
    registry = Registry(project.root, "digits")
    before = registry.holder("best-diffusion")
    assert before is not None

    # The rule changes, and the denoiser is trained anew.
    (project.root / "params.yaml").write_text(yaml.safe_dump(settings(images=60)))
    project = Project.load(project.root)
    kept = project.model("denoiser").rename(project.root / "kept")
    trained_folder(project.model("denoiser"), "diffusion", "denoiser", seed=9)
    judge(project)
    run(project)
    protocol = read_json(project.leaderboard)["protocol_name"]
    again = registry.version(before.number)
    assert protocol not in before.scores
    rejudged = again.mean("fid", protocol)
    assert rejudged is not None
    better = fid(project)["denoiser"] < rejudged
    holder = registry.holder("best-diffusion")
    assert holder is not None
    assert (holder.number != before.number) == better

    # What the step found for the old weights is what `evaluate` finds for them.
    shutil.rmtree(project.model("denoiser"))
    kept.rename(project.model("denoiser"))
    step(project, "sample", "denoiser")
    step(project, "evaluate", "denoiser")
    assert json.loads(project.evaluation("denoiser").read_text())["metrics"]["fid"]["mean"] == rejudged


def test_no_alias_moves_to_what_does_not_pass(project: Project) -> None:
    """The best by FID draws too slowly for this limit: `staging` goes to the best that does not."""
    board = read_json(project.leaderboard)
    of_families: dict[str, dict[str, Any]] = {}
    for row in sorted((row for row in board["rows"] if row["role"] == "model"), key=lambda row: row["rank"]):
        of_families.setdefault(row["family"], row)
    best, second = of_families.values()
    speeds = {name: read_json(project.samples(name) / "card.json")["images_per_second"] for name in FAMILIES}
    for name in FAMILIES:
        card = read_json(project.samples(name) / "card.json")
        card["images_per_second"] = 1.0 if name == best["name"] else max(speeds.values())
        (project.samples(name) / "card.json").write_text(json.dumps(card))
    said = settings()
    said["gates"]["speed"] = {"limit": 2.0, "reason": "a test has no time"}
    (project.root / "params.yaml").write_text(yaml.safe_dump(said))
    project = Project.load(project.root)
    step(project, "gates")
    run(project)
    result, verdicts = read_json(project.registered), project.verdicts
    assert result["staging"]["version"] == result["versions"][second["name"]]["version"]
    assert set(result["aliases"]) == {"staging", f"best-{second['family'].lower()}"}
    kept = read_json(verdicts / f"best-{best['family'].lower()}.json")
    assert kept["outcome"].startswith("stays: ") and not kept["passed"]
    assert "does not pass speed: 1.0 images a second, where 2 are asked for" in kept["outcome"]
    version = Registry(project.root, "digits").version(result["versions"][best["name"]]["version"])
    assert version.tags["genforge.gate.speed"].startswith("FAILED: 1.0 images a second")
    assert version.tags["genforge.gate.finite"].startswith("passed: ")


def test_a_holder_is_set_against_the_candidate_on_the_same_seeds(project: Project) -> None:
    """The worst holds the alias; the best takes it with a probability, or does not when a margin is asked for."""
    board = read_json(project.leaderboard)
    models = sorted((row for row in board["rows"] if row["role"] == "model"), key=lambda row: row["rank"])
    best, worst = models[0], models[-1]
    others = [row for row in board["rows"] if row["role"] != "model"]
    project.leaderboard.write_text(json.dumps({**board, "rows": [*others, worst]}))
    run(project)
    assert read_json(project.registered)["staging"]["holder"] == f"version 1 ({worst['name']})"

    project.leaderboard.write_text(json.dumps(board))
    better = best["metrics"]["fid"]["mean"] - worst["metrics"]["fid"]["mean"]
    for margin, moves in ((2 * -better, False), (0.0, True)):
        said = settings()
        said["gates"]["better"] = {"probability": 0.99, "margin": margin}
        (project.root / "params.yaml").write_text(yaml.safe_dump(said))
        project = Project.load(project.root)
        step(project, "gates")
        run(project)
        verdict = read_json(project.verdicts / "staging.json")
        (found,) = (entry for entry in verdict["gates"] if entry["name"] == "better")
        evidence = found["evidence"]
        assert found["passed"] == moves == (evidence["probability"] >= 0.99)
        # The holder was drawn anew from the registry, and scores what it scored when it was the candidate.
        assert evidence["second"] == pytest.approx(worst["metrics"]["fid"]["mean"], rel=1e-4)
        assert evidence["difference"] == pytest.approx(better, rel=1e-4)
        assert verdict["holder"] == f"version 1 ({worst['name']})"
        staged = read_json(project.registered)["staging"]
        assert staged["holder"].endswith(f"({best['name'] if moves else worst['name']})")
        assert ("passes all" if moves else "does not pass better: FID") in staged["reason"]


def test_what_has_collapsed_is_not_registered(project: Project) -> None:
    board = read_json(project.leaderboard)
    for row in board["rows"]:
        if row["role"] == "model":
            row |= {"role": "collapsed", "rank": None, "collapsed": "it reaches 1 of 10 classes"}
    project.leaderboard.write_text(json.dumps(board))
    run(project)
    result = read_json(project.registered)
    assert (result["versions"], result["aliases"], result["staging"]["version"]) == ({}, {}, None)
    assert "no model is left to register" in result["staging"]["reason"]
    assert "gan" in result["staging"]["reason"]


def test_without_models_nothing_is_registered(project: Project) -> None:
    board = read_json(project.leaderboard)
    board["rows"] = [row for row in board["rows"] if row["role"] == "floor"]
    project.leaderboard.write_text(json.dumps(board))
    run(project)
    result = read_json(project.registered)
    assert (result["versions"], result["aliases"], result["staging"]["version"]) == ({}, {}, None)
    assert "baselines" in result["staging"]["reason"]


def test_everything_is_sent_when_the_step_ends(registered: Project) -> None:
    assert tracking.upload_all(registered.root) == tracking.Uploaded(0, {})


@pytest.mark.parametrize("place", ["steps.gates.Comparisons.verdict", "registry.registry.Registry.move"])
def test_a_failing_gate_or_a_failing_move_leaves_staging_as_it_was(
    project: Project, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    registry = Registry(project.root, "digits")
    registry.history_of_aliases.make_model()
    registry.client.create_model_version("digits", (project.root / "nothing").as_uri())
    registry.move("staging", 1, None, "a model of before")
    whole = pkgutil.resolve_name(f"genforge.{place}")

    def fails_for_staging(self: Any, *arguments: Any, **named: Any) -> Any:
        staging = "staging" in arguments or seen.count("verdict") >= len(set(FAMILIES.values()))
        seen.append(place.rpartition(".")[2])
        if staging:
            raise RuntimeError("no more room")
        return whole(self, *arguments, **named)

    seen: list[str] = []
    monkeypatch.setattr(f"genforge.{place}", fails_for_staging)
    with pytest.raises(RuntimeError, match="no more room"):
        run(project)
    assert {"best-gan", "best-diffusion"} <= registry.aliases().keys()
    assert registry.aliases()["staging"] == 1 and not project.registered.exists()


def test_people_have_the_last_word(project: Project) -> None:
    """What was rolled back comes back by hand alone, and what needs approval waits for it."""
    run(project)
    registry = Registry(project.root, "digits")
    best = read_json(project.registered)["staging"]["version"]
    (worse,) = {1, 2} - {best}
    registry.move("staging", worse, best, "by hand")
    registry.move("staging", best, worse, "by hand again")
    registry.rollback("staging", reason="no sevens")
    run(project)
    staging = read_json(project.registered)["staging"]
    assert registry.aliases()["staging"] == staging["version"] == worse
    assert "no sevens" in staging["reason"] and f"genforge promote digits/{best}" in staging["reason"]

    registry.move("staging", best, worse, "by hand after all")
    registry.move("staging", worse, best, "by hand once more")
    (project.root / "params.yaml").write_text(yaml.safe_dump({**settings(), "registry": {"approval": ["staging"]}}))
    run(Project.load(project.root))
    staging = read_json(project.registered)["staging"]
    assert staging["version"] == worse and "waits for approval" in staging["reason"]
