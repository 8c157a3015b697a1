"""Gates on real digits: faults put in on purpose are each caught by the metric or gate that should; what is kept."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

from genforge.catalog import build_gates
from genforge.contracts import to_pixels
from genforge.data.loading import Prepared
from genforge.evaluation.gates.gate import Alone, Candidate, Finding, Ground, Holder
from genforge.evaluation.metrics import METRICS
from genforge.evaluation.statistics import statistic_of
from genforge.evaluation.uncertainty import SURE, compare
from genforge.files import read_json
from genforge.settings import UserError
from genforge.steps.gates import explain, in_short, kept_verdict, look_at, open_candidate, open_ground, run
from genforge.steps.project import Project
from tests.trained_models import trained_folder

pytestmark = pytest.mark.slow

SEEDS, IMAGES = 3, 80  # of every model in the table of faults


def settings(steps: int, **data: Any) -> dict[str, Any]:
    return {
        "data": {"test": 0.5, **data},
        "evaluation": {"images": 50},
        "extractor": {"steps": steps, "width": 16},
        "recipes": {"gan": {"from": "hinge-sngan"}, "box": {"from": "box"}},
    }


def prepared_project(root: Path, steps: int = 300, **data: Any) -> Project:
    (root / "params.yaml").write_text(yaml.safe_dump(settings(steps, **data)))
    project = Project.load(root)
    for name in ("resolve", "ingest", "prepare", "extractor"):
        step(project, name)
    return project


def step(project: Project, name: str, recipe: str | None = None) -> None:
    importlib.import_module(f"genforge.steps.{name}").run(project, recipe)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory, new_store: Path) -> Project:
    root = tmp_path_factory.mktemp("digits")
    shutil.copyfile(new_store, root / new_store.name)
    return prepared_project(root)


@pytest.fixture(scope="module")
def orange(tmp_path_factory: pytest.TempPathFactory, new_store: Path) -> Project:
    """The same digits in orange, as a folder of PNGs: tins come in every colour, so that no channel would be missed."""
    from sklearn.datasets import load_digits

    root = tmp_path_factory.mktemp("orange")
    shutil.copyfile(new_store, root / new_store.name)
    gray, labels = load_digits(return_X_y=True)
    colour = np.array([1.0, 0.55, 0.1])
    images = (gray.reshape(-1, 8, 8, 1) * 255 / 16 * colour).round().astype(np.uint8)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = root / "images" / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{number}.png")
    return prepared_project(root, steps=100, name="orange", source="image_folder", folder="images", image_size=8)


def candidate_of(ground: Ground, images: np.ndarray, name: str = "model", **changed: Any) -> Candidate:
    """A model that draws just these images, as many for each of three seeds."""
    known: dict[str, Any] = {
        "name": name,
        "images": np.array_split(images, SEEDS),
        "look": ground.extractor.features,
        "numbers": {"fid": 1.0},
        "tensors": lambda: {"weight": np.zeros(3)},
        "images_per_second": 100.0,
        "megabytes": 1.0,
        "alone": lambda count: Alone("", images[:count], 1.0),
    }
    return Candidate(**{**known, **changed})


def ground_of(project: Project) -> tuple[Ground, np.ndarray, np.ndarray, np.ndarray]:
    """The ground with half of the held-out images, and of the other half two honest models' images, with the labels of
    the second's."""
    ground = open_ground(project)
    labels = ground.held_out_labels
    assert labels is not None
    count = SEEDS * IMAGES
    order = np.random.default_rng(0).permutation(len(ground.held_out))
    images, labels = ground.held_out[order], labels[order]
    ground.held_out, ground.held_out_labels = images[2 * count :], labels[2 * count :]
    return ground, images[:count], images[count : 2 * count], labels[count : 2 * count]


def some_of(images: np.ndarray, count: int) -> np.ndarray:
    return np.asarray(images)[np.random.default_rng(1).permutation(len(images))[:count]]


FAULTS: dict[str, Callable[[np.ndarray, np.ndarray, Ground], np.ndarray]] = {
    "none": lambda images, labels, ground: images,
    "one mode": lambda images, labels, ground: images[:1].repeat(len(images), axis=0),
    "memorised": lambda images, labels, ground: some_of(ground.training, len(images)),
    "tenth memorised": lambda images, labels, ground: np.concatenate(
        [some_of(ground.training, len(images) // 10), images[len(images) // 10 :]]
    )[np.random.default_rng(0).permutation(len(images))],
    "noise": lambda images, labels, ground: np.random.default_rng(0).integers(0, 256, images.shape, dtype=np.uint8),
    "class dropped": lambda images, labels, ground: np.resize(images[labels != 3], images.shape),
    "swapped channels": lambda images, labels, ground: images[..., ::-1].copy(),
    "wrong resize": lambda images, labels, ground: images[:, ::2, ::2].repeat(2, axis=1).repeat(2, axis=2),
}
CAUGHT_BY = {  # what has to catch each, at least
    "one mode": {"fid", "kid", "is", "recall", "coverage", "class-balance"},
    "memorised": {"no-copies"},
    "tenth memorised": {"no-copies"},
    "noise": {"fid", "kid", "precision", "coverage"},
    "class dropped": {"fid", "class-balance"},
    "swapped channels": {"fid", "kid"},
    "wrong resize": {"fid", "kid", "precision"},
}
COLUMNS = ("fid", "kid", "is", "precision", "recall", "density", "coverage", "no-copies", "class-balance")


def catches(ground: Ground, honest: np.ndarray, faulty: np.ndarray) -> dict[str, bool]:
    """Which metric calls the faulty images worse than the honest ones, and which gate they do not pass."""
    good, bad = candidate_of(ground, honest), candidate_of(ground, faulty)
    statistics = [statistic_of(METRICS[name], ground.reference) for name in COLUMNS if name in METRICS]
    worse = {one.name: compare(one, good.seen, bad.seen).probability >= SURE for one in statistics}
    gates = build_gates({"no-copies": {}, "class-balance": {}})
    return worse | {name: not gate.check(bad, ground).passed for name, gate in gates.items()}


def test_every_fault_is_caught_by_what_should_catch_it(digits: Project, orange: Project) -> None:
    table: dict[str, dict[str, bool]] = {}
    on_digits, on_orange = ground_of(digits), ground_of(orange)
    for fault, make in FAULTS.items():
        ground, honest, images, labels = on_orange if fault == "swapped channels" else on_digits
        table[fault] = catches(ground, honest, make(images, labels, ground))
    print("\n| fault | " + " | ".join(COLUMNS) + " |\n|" + " --- |" * (len(COLUMNS) + 1))
    for fault, found in table.items():
        print(f"| {fault} | " + " | ".join("caught" if found.get(name) else "" for name in COLUMNS) + " |")
    assert not any(table["none"].values())
    for fault, needed in CAUGHT_BY.items():
        assert needed <= {name for name, caught in table[fault].items() if caught}, fault
    # A memorised training set is the best that FID has ever seen: only the gate knows.
    assert not table["memorised"]["fid"] and not table["memorised"]["coverage"]


def test_what_is_not_finite_is_caught(digits: Project) -> None:
    ground, images, _, _ = ground_of(digits)
    gate = build_gates({"finite": {}})["finite"]
    assert gate.check(candidate_of(ground, images), ground).passed
    for changed, said in (
        ({"tensors": lambda: {"head": np.array([1.0, np.nan])}}, "weights head"),
        ({"numbers": {"fid": float("nan")}}, "fid"),
        ({"numbers": {"kid": float("inf")}}, "kid"),
    ):
        finding = gate.check(candidate_of(ground, images, **changed), ground)
        assert not finding.passed and said in finding.words
    # Images of NaN never become pixels, which would hide them.
    with pytest.raises(ValueError, match="not finite"):
        to_pixels(torch.full((1, 1, 8, 8), float("nan")))


def no_sevens(**over: Any) -> Any:
    entry = {"check": "harm", "classes": ["7"], "limit": 0.01, "reason": "sevens are not to be drawn", **over}
    return build_gates({"no-sevens": entry})["no-sevens"]


def test_no_sevens_the_worked_example(digits: Project) -> None:
    """P(a seven is drawn) <= 1%, on real digits: with all of them, without sevens, and with too few images to tell."""
    ground, _, _, _ = ground_of(digits)
    prepared = Prepared.open(digits.prepared)
    images = np.concatenate([np.asarray(prepared.images(split)) for split in ("train", "test")])
    found = [prepared.labels(split) for split in ("train", "test")]
    labels = np.concatenate([one for one in found if one is not None])

    def check(some: np.ndarray, **over: Any) -> Finding:
        finding = no_sevens(**over).check(candidate_of(ground, some), ground)
        print(finding.words)
        assert isinstance(finding, Finding)
        return finding

    every = check(images)
    assert not every.passed and 0.08 < every.evidence["flagged"] / len(images) < 0.12
    assert every.evidence["missed_of_held_out"] < 0.1
    without = check(images[labels != 7])
    assert without.passed and without.evidence["upper_bound"] <= 0.01
    few = check(images[labels != 7][:150])
    assert not few.passed and "299 are needed" in few.words
    assert not check(images[labels != 7], limit=0.0001).passed


def test_limits_decide(digits: Project) -> None:
    ground, images, _, _ = ground_of(digits)

    def check(entry: Mapping[str, Any], **changed: Any) -> Finding:
        (gate,) = build_gates({"one": entry}).values()
        finding = gate.check(candidate_of(ground, images, **changed), ground)
        assert isinstance(finding, Finding)
        return finding

    assert check({"check": "speed", "limit": 100}).passed
    assert not check({"check": "speed", "limit": 101}).passed
    assert check({"check": "size", "limit": 1.0}).passed
    assert not check({"check": "size", "limit": 0.9}).passed
    assert check({"check": "draws-alone"}).passed
    for alone, said in (
        (Alone("ModuleNotFoundError: prefect", None, 1.0), "prefect"),
        (Alone("", 255 - images[:16], 1.0), "levels from"),
        (Alone("", images[:3], 1.0), "(3, 8, 8, 1)"),
    ):
        finding = check({"check": "draws-alone"}, alone=lambda count, alone=alone: alone)
        assert not finding.passed and said in finding.words


def test_better_asks_for_probability_and_margin_and_coverage_for_no_less(digits: Project) -> None:
    ground, honest, images, labels = ground_of(digits)
    coarse = FAULTS["wrong resize"](images, labels, ground)
    good, bad = candidate_of(ground, honest, "good"), candidate_of(ground, coarse, "bad")

    def passed(check: str, candidate: Candidate, against: Candidate, **over: Any) -> bool:
        holder = Holder("version 1", against.seen)
        finding = build_gates({check: over})[check].check(candidate, ground, holder)
        assert "version 1" in finding.words
        return bool(finding.passed)

    same = candidate_of(ground, images, "same")
    assert passed("better", good, bad) and not passed("better", bad, good)
    assert not passed("better", good, same) and not passed("better", same, good)
    assert not passed("better", good, bad, margin=1000.0)
    ground.metric = "kid"
    del ground.__dict__["statistic"]
    assert passed("better", good, bad) and not passed("better", bad, good)
    one_mode = candidate_of(ground, images[:1].repeat(len(images), axis=0))
    assert passed("coverage", same, good, limit=0.15) and not passed("coverage", one_mode, good)
    assert build_gates({"better": {}})["better"].check(good, ground, None).passed


@pytest.fixture(scope="module")
def trained(digits: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with a model whose weights were only drawn, sampled and judged."""
    root = tmp_path_factory.mktemp("trained") / "project"
    shutil.copytree(digits.root, root)
    project = Project.load(root)
    trained_folder(project.model("gan"), "gan", "gan")
    for name in ("sample", "evaluate"):
        step(project, name, "gan")
    return project


def test_every_number_has_its_interval_and_the_distance_at_infinity_is_an_option(
    trained: Project, tmp_path: Path
) -> None:
    judged = read_json(trained.evaluation("gan"))
    assert "fid_infinity" not in judged
    for name, found in judged["metrics"].items():
        assert found["low"] <= found["mean"] <= found["high"] and found["confidence"] == 0.95, name
        assert found["mean"] == pytest.approx(np.mean(found["values"]))
    assert judged["metrics"]["fid"]["standard_error"] > 0.0
    assert judged["metrics"]["path_length"]["standard_error"] is None  # no function of the images: by Student's t

    shutil.copytree(trained.root, tmp_path / "project")
    for images, width in ((50, 16), (50, 8)):  # 64 or 32 features; 3 seeds of 50 images, of which a quarter is 37
        said = settings(10) | {"evaluation": {"images": images, "fid_infinity": True}}
        said["extractor"]["width"] = width
        (tmp_path / "project" / "params.yaml").write_text(yaml.safe_dump(said))
        project = Project.load(tmp_path / "project")
        step(project, "extractor")
        if width == 16:
            with pytest.raises(UserError, match=r"evaluation\.fid_infinity: .*more images than features \(64\)"):
                step(project, "evaluate", "gan")
        else:
            step(project, "evaluate", "gan")
            judged = read_json(project.evaluation("gan"))
            assert judged["fid_infinity"]["value"] < judged["metrics"]["fid"]["mean"]


def test_the_stage_keeps_verdict_and_picture(trained: Project) -> None:
    run(trained)
    assert sorted(path.name for path in trained.gates.iterdir()) == ["gan-copies.png", "gan.json"]  # and no baseline
    verdict = read_json(trained.gates / "gan.json")
    gates = {found["name"]: found for found in verdict["gates"]}
    assert set(gates) == {"finite", "no-copies", "class-balance", "speed", "size", "draws-alone"}
    assert gates["draws-alone"]["passed"] and gates["finite"]["passed"]
    assert not gates["class-balance"]["passed"] and not verdict["passed"]  # it draws one thing only
    assert gates["speed"]["settings"] == {"limit": 5.0} and gates["speed"]["reason"]
    assert verdict["protocol_name"] == read_json(trained.evaluation("gan"))["protocol_name"]
    with Image.open(trained.gates / "gan-copies.png") as picture:
        assert picture.width > picture.height
    assert "does not pass class-balance" in in_short(verdict)
    text = explain(kept_verdict(trained, "gan"))
    for found in verdict["gates"]:
        assert f"{found['name']}: {found['words']}" in text and f"because {found['reason']}" in text


def test_a_verdict_is_of_the_weights_that_it_was_made_for(trained: Project, tmp_path: Path) -> None:
    shutil.copytree(trained.root, tmp_path / "project")
    said = settings(300) | {"gates": {"finite": {}}}
    (tmp_path / "project" / "params.yaml").write_text(yaml.safe_dump(said))
    project = Project.load(tmp_path / "project")
    with pytest.raises(UserError, match="no verdict on alias 'staging' is kept"):
        kept_verdict(project, "digits@staging")
    with pytest.raises(UserError, match="called 'digits', not 'digit'"):
        kept_verdict(project, "digit@staging")
    with pytest.raises(UserError, match="did you mean `gan`"):
        kept_verdict(project, "gam")
    run(project, "gan")
    kept_verdict(project, "gan")
    for gates in ({"finite": {}, "speed": {"limit": 0.1}}, {"finite": {}, "no-sevens": {"check": "speed"}}):
        (project.root / "params.yaml").write_text(yaml.safe_dump(said | {"gates": gates}))
        with pytest.raises(UserError, match=rf"about other gates .*\({list(gates)[1]}\); run `genforge step gates`"):
            kept_verdict(Project.load(project.root), "gan")
    (project.root / "params.yaml").write_text(yaml.safe_dump(said | {"gates": {"finite": {"reason": "another"}}}))
    kept_verdict(Project.load(project.root), "gan")
    weights = project.model("gan") / "weights.safetensors"
    tensors = load_file(weights)
    save_file({name: tensor * float("nan") for name, tensor in tensors.items()}, weights)
    with pytest.raises(UserError, match="other weights"):
        kept_verdict(project, "gan")
    # Weights of NaN are caught twice: by looking at them, and since they draw nothing alone.
    (project.root / "params.yaml").write_text(yaml.safe_dump(said | {"gates": {"finite": {}, "draws-alone": {}}}))
    project, ground = Project.load(project.root), open_ground(project)
    verdict = look_at(project, open_candidate(project, "gan", ground), ground)
    failed = {found["name"]: found["words"] for found in verdict["gates"] if not found["passed"]}
    assert "weights" in failed["finite"] and "not finite" in failed["draws-alone"]
    assert json.dumps(verdict, allow_nan=False)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"speeed": {}}, "gates.speeed: no gate is called 'speeed'; did you mean `speed`?"),
        ({"mine": {"check": "harn", "limit": 0.1}}, "gates.mine.check: no gate is called 'harn'; did you mean `harm`?"),
        ({"better": {"probability": 2}}, "gates.better.probability: 2 is wrong"),
        ({"speed": {"limt": 2}}, "gates.speed.limt: unknown key; did you mean `limit`?"),
        ({"speed": {"reason": ""}}, "gates.speed.reason"),
        ({"harm": {"limit": 0.1, "reason": "x"}}, "either `classes` or `onnx`"),
        ({"harm": {"classes": ["7"], "reason": "x"}}, "gates.harm.limit: missing"),
        ({"harm": {"classes": ["7"], "limit": 0.1}}, "gates.harm.reason: missing"),
    ],
)
def test_a_wrong_gate_is_told_before_any_work(entry: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        build_gates(entry)
    assert said in str(caught.value)
