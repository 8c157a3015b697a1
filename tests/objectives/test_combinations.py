"""Losses, stabilisers and networks go together: every combination takes a turn, or is refused for a reason that stands
here. A sample, in which each of them and every way to give labels occurs, is trained, resumed and drawn from."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from genforge import catalog
from genforge.catalog import NETWORKS, build_network, target
from genforge.contracts import ImageShape, Objective
from genforge.objectives.adversarial_settings import AdversarialSettings
from genforge.objectives.gan_losses import LOSSES
from genforge.randomness import seed_everything
from genforge.settings import UserError
from genforge.training.checkpoint import Checkpoints
from genforge.training.loop import train
from genforge.training.settings import TrainingSettings
from tests.networks.network_cases import Images, some_pixels

IMAGE, CLASSES = ImageShape(1, 8, 8), 3
STABILISERS: dict[str, dict[str, Any]] = {
    "none": {},
    "weight clipping": {"weight_clip": 0.05},
    "gradient penalty": {"gradient_penalty": 1.0},
    "R1, lazy": {"r1": 1.0, "penalties_every": 2},
    "R1 and R2": {"r1": 1.0, "r2": 1.0},
    "label smoothing": {"label_smoothing": 0.1},
    "label flipping": {"label_flipping": 0.2},
    "instance noise": {"instance_noise": 0.2, "instance_noise_turns": 3},
    "feature matching": {"feature_matching": 1.0},
    "differentiable augmentation": {"augmentation": ["colour", "translation", "cutout"]},
    "adaptive augmentation": {"adaptive_augmentation": ["mirror", "blit", "geometry", "colour"], "adaptive_images": 50},
    "several critic turns": {"critic_steps": 2},
    "the same images in both turns": {"same_images": True},
}
PAIRS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "mlp": ({"widths": [16]}, {"widths": [16]}),
    "dcgan": ({"width": 4}, {"width": 4}),
    "resnet": ({"width": 4}, {"width": 4}),
    "style": (
        {"width": 4, "widest": 8, "style_size": 8, "mapping_layers": 1},
        {"width": 4, "widest": 8},
    ),
    "progressive": ({"width": 4, "widest": 8}, {"width": 4, "widest": 8}),
}
LABELS = (
    ("", ""),
    ("embedding", "embedding"),
    ("concatenation", "projection"),
    ("batch-norm", "concatenation"),
)
COUNT = 20
BOUNDS = {"weight clipping", "gradient penalty", "R1, lazy", "R1 and R2"}


def refusal(loss: str, stabiliser: str, pair: str, labels: tuple[str, str]) -> str:
    """What the error says of a combination that makes no sense; empty where it makes sense."""
    if labels[0] == "batch-norm" and pair not in ("dcgan", "resnet"):
        return "'batch-norm' is not a valid choice"  # of generators that normalise no batch
    formulas, spectral = LOSSES[loss], pair == "resnet"  # whose critic has spectral normalisation by default
    if stabiliser == "label smoothing" and not formulas.has_target:
        return "gives real images no target to soften"
    if stabiliser == "adaptive augmentation" and formulas.boundary is None:
        return "calls none of them real by itself"
    if stabiliser == "weight clipping" and spectral:
        return "clipping changes nothing of the kind"
    if formulas.needs_bound and not spectral and stabiliser not in BOUNDS:
        return "has no least value for a critic whose slopes nothing bounds"
    return ""


def sample() -> list[tuple[str, str, str, tuple[str, str]]]:
    """So many (loss, stabiliser, pair, labels), each list gone through again and again in an order of its own."""
    chance = random.Random(119)
    columns: list[list[Any]] = []
    for kinds in (sorted(LOSSES), list(STABILISERS), list(PAIRS), list(LABELS)):
        column: list[Any] = []
        while len(column) < COUNT:
            column += chance.sample(kinds, len(kinds))
        columns.append(column[:COUNT])
    return list(zip(*columns, strict=True))


def build(loss: str, stabiliser: str, pair: str, labels: tuple[str, str]) -> Objective:
    """Raises UserError where these do not go together."""
    settings = AdversarialSettings.read(
        {"loss": loss, "latent_size": 6, "conditional": bool(labels[0]), **STABILISERS[stabiliser]}, "test"
    )
    kind = target("objective", "adversarial")
    networks = {}
    for (role, port), own, conditioning in zip(
        kind.ports(settings, IMAGE, CLASSES).items(), PAIRS[pair], labels, strict=True
    ):
        chosen = {"conditioning": conditioning} if conditioning else {}
        networks[role] = build_network({"name": f"{pair}-{role}", **own, **chosen}, port, role)
    return kind(settings, networks)


def data() -> Images:
    return some_pixels(IMAGE, 32, CLASSES)


SAMPLE = [combination for combination in sample() if not refusal(*combination)]


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("loss", LOSSES)
def test_every_combination_takes_a_turn_or_says_why_not(loss: str, pair: str) -> None:
    ways = [labels for labels in LABELS if not refusal("hinge", "none", pair, labels)]
    for number, stabiliser in enumerate(STABILISERS):
        combination = (loss, stabiliser, pair, ways[number % len(ways)])
        if words := refusal(*combination):
            with pytest.raises(UserError, match=words):
                build(*combination)
            continue
        seed_everything(3)
        objective = build(*combination)
        for player in objective.players:
            objective.loss(player, data().batch(0, 6)).value.backward()
            gradients = [weight.grad for weight in player.module.parameters() if weight.grad is not None]
            assert gradients and all(torch.isfinite(gradient).all() for gradient in gradients), combination
            assert any(gradient.abs().sum() > 0 for gradient in gradients), combination
            objective.after_step(player)


def test_every_loss_stabiliser_pair_and_way_of_labels_is_in_the_sample() -> None:
    for column, kinds in enumerate((LOSSES, STABILISERS, PAIRS, LABELS)):
        assert {combination[column] for combination in SAMPLE} == set(kinds)
    pairs = {name.rpartition("-")[0] for name in NETWORKS if name.endswith("-critic")}
    assert pairs == set(PAIRS)


@pytest.mark.parametrize("combination", SAMPLE, ids=lambda parts: ", ".join(map(str, parts)))
def test_it_trains_with_finite_gradients_and_resumes_to_the_same_bits(combination: Any, tmp_path: Path) -> None:
    def run(steps: int, folder: Path | None) -> dict[str, torch.Tensor]:
        seed_everything(2)
        objective = build(*combination)
        settings = TrainingSettings(steps=steps, batch_size=6, checkpoint_every=2, log_every=1, ema=0.9)
        rows: list[dict[str, float]] = []
        checkpoints = Checkpoints(folder, warn=print) if folder else None
        train(objective, data(), settings, checkpoints=checkpoints, log=lambda step, values: rows.append(values))
        lengths = [
            row[f"{player}_gradient"]
            for row in rows
            for player in ("critic", "generator")
            if f"{player}_gradient" in row
        ]
        assert lengths and all(0 < length < float("inf") for length in lengths)
        return {**objective.exported.state_dict(), **objective.state()}

    whole = run(4, None)
    run(2, tmp_path / "checkpoints")
    found = run(4, tmp_path / "checkpoints")
    assert found.keys() == whole.keys()
    assert all(torch.equal(found[key], whole[key]) for key in whole)


@pytest.mark.parametrize("combination", SAMPLE, ids=lambda parts: ", ".join(map(str, parts)))
def test_images_have_their_shape_hang_on_the_seed_alone_and_on_the_label_where_there_is_one(combination: Any) -> None:
    from genforge.contracts import Draw

    seed_everything(2)
    network = build(*combination).exported.eval()
    sampler = catalog.build_sampler({"name": "one-shot"})
    labels = torch.arange(5) % CLASSES if network.port.classes else None
    images = sampler.sample(network, Draw(0, torch.arange(5), labels))
    assert images.shape == (5, 1, 8, 8)
    one = sampler.sample(network, Draw(0, torch.tensor([3]), None if labels is None else labels[3:4]))
    torch.testing.assert_close(one[0], images[3], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(sampler.sample(network, Draw(1, torch.arange(5), labels)), images, atol=1e-4)
    if labels is None:
        return
    with pytest.raises(ValueError, match="got none"):
        sampler.sample(network, Draw(0, torch.arange(5)))
