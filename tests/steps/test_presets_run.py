"""Every recipe of every preset trains, draws and is judged: here with few steps, small networks and images of noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from genforge.files import read_array, read_json
from genforge.steps import evaluate, extractor, ingest, prepare, preset, resolve, sample, train
from genforge.steps.project import Project

# name: (side, channels) of its images, where params.yaml leaves them to the source. digits run in every pipeline test;
# fashion-mnist has the very recipes and sizes of mnist, as the first test says; cifar10 and my-images train smaller
# sizes of what celeba trains (and tests/recipes goes through every recipe).
SHAPES = {"tins": (32, 3), "mnist": (28, 1), "celeba": (64, 3)}
# What has no settings of its own in any preset runs once.
BASELINES, BASELINES_IN = ("box", "gaussian", "mixture", "kernel-density"), "mnist"
SMALL = {
    "extractor": {"steps": 10, "batch_size": 16, "width": 8},
    "evaluation": {"images": 50, "seeds": [0, 1, 2], "likelihood_images": 2, "metrics": ["fid"]},
}


def smaller(settings: Any) -> Any:
    """The same networks with a few channels."""
    if not isinstance(settings, dict):
        return settings
    return {key: 8 if key == "width" else smaller(value) for key, value in settings.items()}


def test_fashion_mnist_is_sized_as_mnist() -> None:
    one, other = (yaml.safe_load(preset.render(name, "cpu")) for name in ("mnist", "fashion-mnist"))
    assert one["recipes"] == other["recipes"]


@pytest.mark.slow
@pytest.mark.parametrize("name", list(SHAPES))
def test_every_recipe_of_a_preset_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENFORGE_UPLOADER", "off")
    side, channels = SHAPES[name]
    params = yaml.safe_load(preset.render(name, "cpu"))
    params["data"].update(source="image_folder", folder="images", image_size=side, channels=channels, test=0.4)
    for recipe in params["recipes"].values():
        recipe.update(smaller(recipe))
        recipe["training"] = {**recipe.get("training", {}), "steps": 2, "batch_size": 4}
        if "sampler" in recipe:
            recipe["sampler"] = {**recipe["sampler"], "steps": 2}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({**params, **SMALL, "device": "cpu"}))
    random, shape = np.random.default_rng(0), (side, side) if channels == 1 else (side, side, channels)
    (tmp_path / "images").mkdir()
    for number in range(150):
        pixels = random.integers(0, 256, shape, dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")

    project = Project.load(tmp_path)
    for step in (ingest, prepare, resolve, extractor):
        step.run(project)
    for recipe in project.config.recipes:
        if recipe in BASELINES and name != BASELINES_IN:
            continue
        project.search(recipe).mkdir(parents=True)
        (project.search(recipe) / "best.json").write_text('{"settings": {}}')
        for step in (train, sample):
            step.run(project, recipe)
        assert read_array(project.samples(recipe) / "seed-0.npy").shape == (50, side, side, channels)
        if name == BASELINES_IN:  # the judge asks nothing of a recipe but its images
            evaluate.run(project, recipe)
            assert np.isfinite(read_json(project.evaluation(recipe))["metrics"]["fid"]["mean"])
