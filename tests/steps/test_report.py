"""The report is made of the other steps' artifacts, escapes their text, loads nothing from elsewhere, names no missing
picture."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest

from genforge.evaluation.leaderboard import build
from genforge.evaluation.likelihood import Likelihood, LikelihoodProtocol
from genforge.evaluation.protocol import Protocol
from genforge.pictures import grid, save_png
from genforge.report.lineage import Link, draw
from genforge.settings import UserError
from genforge.steps.project import Project
from genforge.steps.report import read_curves, run
from tests.report.browser import Browser, find_browser

HOSTILE = "<script>alert('x')</script> & \"quoted\" <img src=https://evil.example/x.png>"
FAMILIES = {
    "gan": "GAN",
    "vae": "VAE",
    "diffusion": "diffusion",
    "mixture": "baseline",
    "gaussian": "baseline",
    "box": "baseline",
}
FIDS = {"floor": 4.2, "diffusion": 12.1, "gan": 18.4, "vae": 44.7, "mixture": 60.2, "gaussian": 110.5, "box": 601.0}
PROTOCOL = Protocol(
    extractor="classifier",
    extractor_digest="5f" * 16,
    feature_layer="features",
    logits_layer="logits",
    resizing="none",
    precision="float32",
    reference_digest="a1" * 16,
    reference_split="train",
    reference_images=1132,
    images=500,
    settings={"kid": {"subsets": 100, "subset_size": 500}, "precision": {"neighbours": 3, "real_images": 1132}},
    seed=2020,
    versions={"torch-fidelity": "0.4.0"},
)


def score(*values: float) -> dict[str, Any]:
    mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
    return {"mean": mean, "std": deviation, "low": mean - deviation, "high": mean + deviation, "values": list(values)}


def result(name: str) -> dict[str, Any]:
    fid = FIDS[name]
    closeness = 1 / (1 + fid / 40)
    return {
        "name": name,
        "family": FAMILIES.get(name, "real"),
        "origin": name,
        "metrics": {
            "fid": score(fid, fid * 1.03, fid * 0.98),
            "kid": score(fid / 900, fid / 880, fid / 910),
            "is": score(9 * closeness, 9.1 * closeness, 8.9 * closeness),
            "precision": score(closeness, closeness - 0.01, closeness + 0.01),
            "recall": score(0.95 * closeness**2, 0.9 * closeness**2, closeness**2),
            "coverage": score(0.5, 0.4, 0.6),
            **({"path_length": score(77.7, 77.8, 77.6)} if name == "gan" else {}),
        },
        "protocol": PROTOCOL.to_json(),
        "protocol_name": PROTOCOL.name,
        "images_per_second": None if name == "floor" else 4321.0,
        **({"likelihood": likelihood(name).to_json()} if name in ("vae", "box") else {}),
        **({"latent_space": LATENT_SPACE} if name == "vae" else {}),
        **({"latent_space": {**LATENT_SPACE, "disentanglement": None}} if name == "gan" else {}),
        **({"latent_space": OF_UNKNOWN_FACTORS} if name == "diffusion" else {}),
    }


LATENT_SPACE = {
    "size": 2,
    "images": 539,
    "reconstruction_error": 0.0123,
    "disentanglement": {
        "factors": ["height", "width"],
        "rank_correlation": [[0.97, -0.11], [0.04, 0.88]],
        "mig": 0.66,
    },
}


# As most data have.
OF_UNKNOWN_FACTORS = {key: value for key, value in LATENT_SPACE.items() if key != "disentanglement"}


def likelihood(name: str) -> Likelihood:
    protocol = LikelihoodProtocol("8-bit images", "test", "b2" * 16, 539, 64, 0)
    if name == "vae":
        return Likelihood(-123.4, 1.0, 2.781, 0.01, False, "importance-weighted bound, 64 samples", protocol)
    return Likelihood(-319.2, 0.1, 7.196, 0.003, True, "exact; uniform dequantisation", protocol)


def make_model(project: Project, name: str, noise: np.random.Generator) -> None:
    folder = project.model(name)
    folder.mkdir(parents=True)
    steps = 0 if FAMILIES[name] == "baseline" else 1500
    card = {
        "name": name,
        "family": FAMILIES[name],
        "origin": {"gan": "hinge-sngan", "diffusion": "ddpm"}.get(name, name),
        "recipe": {"description": f"A {FAMILIES[name]} for tests. {HOSTILE}", "source": "Somebody et al. 2020"},
        "data": {"name": "digits", "digest": "a1" * 16},
        "seed": 0,
        "steps": steps,
        "images_seen": steps * 64,
        "seconds": 31.5 if steps else 0.2,
        "images_per_second": 3047.6,
        "parameters": 123456,
        "code": "c0" * 16,
    }
    (folder / "model.json").write_text(json.dumps(card))
    images = noise.integers(0, 255, (64, 8, 8, 1)).astype(np.uint8)
    save_png(project.samples(name) / "grid.png", grid(images))
    if steps:
        save_png(folder / "filmstrip.png", grid(images[:40], columns=8))
        if name in ("gan", "diffusion"):
            save_png(folder / "latent-reconstructions.png", grid(images[:18], columns=9))
        if name == "vae":
            for key in ("reconstructions", "traversals", "interpolations", "arithmetic"):
                save_png(folder / f"latent-{key}.png", grid(images[:36], columns=9))
        lines = ["step,generator,critic,images_per_second"]
        lines += [
            f"{step},{np.exp(-step / 500) + noise.random() / 10},{'' if step == 50 else 1.5},3000"
            for step in range(50, 1501, 50)
        ]
        (folder / "curves.csv").write_text("\n".join(lines))


def make_search(project: Project, name: str, searched: bool) -> None:
    folder = project.search(name)
    folder.mkdir(parents=True)
    best: dict[str, Any] = {"settings": {}, "value": None, "metric": "fid", "trials": 0}
    if searched:
        key = "training.optimizer.learning_rate"
        best = {
            "settings": {key: 4e-4},
            "value": 21.0,
            "metric": "fid",
            "protocol": "classifier-5ea7c4",
            "trials": 4,
            "trial": 2,
            "defaults": {key: 2e-4},
            "default_value": 30.0,
            "importances": {key: 1.0},
            "note": "",
        }
        rows = [
            f"number,state,value,{key},seconds,reason",
            "0,complete,30.0,0.0002,4.1,",
            "1,pruned,55.0,0.01,2.2,",
            "2,complete,21.0,0.0004,4.0,",
            '3,failed,,0.1,1.0,"ValueError: <b>not</b> finite, at step 7"',
        ]
        (folder / "trials.csv").write_text("\n".join(rows))
    (folder / "best.json").write_text(json.dumps(best))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with the artifacts of a small run, of which some text is hostile."""
    root = tmp_path_factory.mktemp("project")
    (root / "params.yaml").write_text("recipes:\n" + "".join(f"  {name}: {{from: {name}}}\n" for name in FAMILIES))
    project = Project.load(root)
    noise = np.random.default_rng(0)
    for name, family in FAMILIES.items():
        make_model(project, name, noise)
        make_search(project, name, family != "baseline")
    project.leaderboard.write_text(json.dumps(build([result(name) for name in FIDS], "fid")))
    save_png(project.prepared / "samples.png", grid(noise.integers(0, 255, (100, 8, 8, 1)).astype(np.uint8)))
    classes = [str(digit) for digit in range(10)]
    splits = {"train": 1132, "validation": 126, "test": 539}
    card = {
        "name": "digits",
        "digest": "a1" * 16,
        "shape": {"channels": 1, "height": 8, "width": 8},
        "classes": classes,
        "counts": {"inputs": 1803, "kept": 1797, "duplicate": 1, "quarantined": 5},
        "splits": splits,
        "class_balance": {
            split: {name: count // 10 + int(name) for name in classes} for split, count in splits.items()
        },
        "duplicates": {"same contents": 1},
        "quarantine": {"truncated": 4, HOSTILE: 1},
    }
    (project.prepared / "card.json").write_text(json.dumps(card))
    run(project)
    return project


class Page(HTMLParser):
    """Every tag with its attributes, and the text outside of tags."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img", "source"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def page(project: Project) -> Page:
    return Page(project.report / "index.html")


def test_every_picture_of_the_page_is_there_and_none_other(project: Project, page: Page) -> None:
    named = {attributes["src"] for tag, attributes in page.tags if tag == "img"}
    named |= {attributes["srcset"] for tag, attributes in page.tags if tag == "source"}
    assert named == {path.name for path in project.report.glob("*.png")}
    assert {"real.png", "gan-samples.png", "gan-filmstrip.png", "gan-curves-dark.png", "leaderboard-light.png"} <= named
    assert "box-filmstrip.png" not in named


def test_every_picture_is_described_and_has_its_size(page: Page) -> None:
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    assert all(picture["alt"] and int(picture["width"] or 0) > 0 for picture in pictures)
    assert len({picture["alt"] for picture in pictures}) == len(pictures)


def test_nothing_is_loaded_from_elsewhere(project: Project, page: Page) -> None:
    addresses = [
        value
        for _, attributes in page.tags
        for key, value in attributes.items()
        if key in ("src", "srcset", "href", "data")
    ]
    beside = r"[\w.-]+\.png|\.\./lineage/[\w-]+\.svg|#[\w-]+|data:,"
    assert all(re.fullmatch(beside, address or "") for address in addresses)
    assert not {"script", "iframe", "embed"} & {tag for tag, _ in page.tags}
    style = re.search(r"<style>(.*?)</style>", (project.report / "index.html").read_text(), re.S)
    assert style and "url(" not in style[1] and "@import" not in style[1]
    policies = [
        attributes["content"]
        for tag, attributes in page.tags
        if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policies and "default-src 'none'" in (policies[0] or "")


def test_the_page_shows_the_chain_of_every_alias_that_will_be_offered_a_model(page: Page) -> None:
    shown = {attributes["data"]: attributes["aria-label"] for tag, attributes in page.tags if tag == "object"}
    names = ("staging", "best-gan", "best-vae", "best-diffusion")
    assert shown == {f"../lineage/{name}.svg": f"Where digits@{name} comes from" for name in names}
    assert page.text.count("no chain lies beside this page") == len(names)  # for as long as nothing is registered


@pytest.mark.skipif(find_browser() is None, reason="no Chromium is installed here")
def test_the_page_in_a_browser(project: Project, tmp_path: Path) -> None:
    """Wide and light, and dark on a phone: it asks for its own files alone, tells no error and shows everything; only
    tables and strips are wider than the window, and scroll by themselves."""
    for alias in ("staging", "best-gan", "best-vae", "best-diffusion"):
        draw(
            project.lineage / f"{alias}.svg", [Link("alias", f"digits@{alias}", (), [("weights", "f0" * 16)])] * 6, "it"
        )
    try:
        with Browser(tmp_path) as browser:
            for width, dark in ((1200, False), (390, True)):
                browser.look(width, 800, dark)
                visit = browser.open((project.report / "index.html").resolve().as_uri())
                browser.evaluate("document.querySelectorAll('img').forEach(image => { image.loading = 'eager' })")
                loaded = "Promise.all([...document.images].map(image => image.decode())).then(() => true)"
                assert browser.evaluate(loaded)
                assert visit.errors == []
                assert all(address.startswith(("file:", "data:")) for address in visit.requests)
                shown = {unquote(address).rpartition("/")[2] for address in visit.requests}
                assert {"index.html", "staging.svg", "real.png"} <= shown
                charts = browser.evaluate("[...document.querySelectorAll('.chart')].map(chart => chart.currentSrc)")
                assert charts and all(chart.endswith("-dark.png" if dark else "-light.png") for chart in charts)
                assert browser.evaluate("document.documentElement.scrollWidth") == width
                heights = browser.evaluate("[...document.querySelectorAll('object')].map(chain => chain.clientHeight)")
                assert (
                    len(heights) == 4 and min(heights) > 500
                )  # drawn at its own height, and no word of a chain missing
    finally:
        shutil.rmtree(project.lineage)  # the other tests have a project where nothing is registered yet


def test_text_of_artifacts_is_text_on_the_page(page: Page) -> None:
    assert page.text.count(HOSTILE) == len(FAMILIES) + 1
    assert "ValueError: <b>not</b> finite, at step 7" in page.text


def test_all_tags_are_closed_in_order(page: Page) -> None:
    assert page.open == []


def test_the_page_tells_rank_spread_protocol_and_what_was_found(page: Page) -> None:
    text = " ".join(page.text.split())
    assert "diffusion leads 3 models" in text
    assert "12.14 ± 0.30" in text and PROTOCOL.name in text
    assert "held-out real images" in text and "ceiling" in text
    assert "0.0002 → 0.0004" in text
    assert "classifier-5ea7c4" in text  # what trials were judged by
    assert text.count("77.7 ± 0.1") == 1  # a number that one row has
    assert "subsets 100, subset size 500" in text  # settings of KID


def test_the_page_tells_likelihoods_and_shows_latent_spaces(page: Page) -> None:
    text = " ".join(page.text.split())
    assert "≤ 2.781 ± 0.020" in text and "7.196 ± 0.006" in text
    assert "Bits/dim of vae: importance-weighted bound, 64 samples; -123.40 nats an image" in text
    assert "mutual information gap 0.66" in text and "+0.97-0.11" in text
    shown = [
        attributes["src"] for tag, attributes in page.tags if tag == "img" and "latent" in (attributes["src"] or "")
    ]
    assert len(shown) == 6 and {"vae-latent-traversals.png", "gan-latent-reconstructions.png"} <= set(shown)
    assert text.count("Rank correlation of each dimension") == 1  # only where the factors are known


def test_the_same_artifacts_give_the_same_bytes(project: Project) -> None:
    before = {path.name: path.read_bytes() for path in project.report.iterdir()}
    run(project)
    assert {path.name: path.read_bytes() for path in project.report.iterdir()} == before


def test_curves_leave_out_empty_cells_and_what_is_not_finite(tmp_path: Path) -> None:
    path = tmp_path / "curves.csv"
    path.write_text("step,loss,kl\n10,1.5,\n20,nan,0.25\n")
    assert read_curves(path) == {"loss": [(10, 1.5)], "kl": [(20, 0.25)]}
    path.write_text("step,loss\n10,much\n")
    with pytest.raises(UserError, match="loss is 'much' at step '10'"):
        read_curves(path)
    path.write_text("epoch,loss\n1,2\n")
    with pytest.raises(UserError, match="column `step`"):
        read_curves(path)
