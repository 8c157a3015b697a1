"""What steadies adversarial training, on players so small that every turn is worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from genforge.catalog import build_network
from genforge.contracts import Batch, ImageShape, Network, Port
from genforge.objectives.adversarial import Adversarial, AdversarialSettings
from genforge.objectives.gan_losses import LOSSES
from genforge.settings import Settings, UserError
from genforge.training.loop import train
from genforge.training.optimization import OptimizerSettings
from genforge.training.settings import TrainingSettings
from genforge.training.turn import Part, Turn, TurnSettings
from tests.networks.network_cases import some_pixels

IMAGE = ImageShape(1, 8, 8)


class OneImage(Network):
    """The generator: one image, whatever the latent."""

    kind = "latent_to_image"
    settings_type = Settings

    def __init__(self) -> None:
        super().__init__(Settings(), Port("latent_to_image", IMAGE, latent_size=64))
        self.image = nn.Parameter(torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(1)))

    def forward(self, latent: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.image.expand(len(latent), -1, -1, -1)


class Linear(Network):
    """The critic: D(x) = a x, with slope |a| everywhere."""

    kind = "image_to_vector"
    settings_type = Settings

    def __init__(self) -> None:
        super().__init__(Settings(), Port("image_to_vector", IMAGE, outputs=1))
        self.direction = nn.Parameter(torch.randn(64, generator=torch.Generator().manual_seed(2)))

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        return (images.flatten(1) @ self.direction)[:, None]


class Featured(Linear):
    """Its features are the pixels."""

    def features(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        return images.flatten(1)


def tiny(**settings: Any) -> Adversarial:
    return Adversarial(AdversarialSettings.read(settings, "objective"), {"generator": OneImage(), "critic": Featured()})


def real(count: int = 8) -> Batch:
    return Batch(torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(3)))


def turn(objective: Adversarial, player: int = 0, rate: float = 0.1, **settings: Any) -> Turn:
    sgd = OptimizerSettings(name="sgd", learning_rate=rate, betas=(0.0, 0.0))
    return Turn(objective, objective.players[player], sgd, TurnSettings("cpu", **settings))


@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize(
    "weights", [{"r1": 3.0}, {"r2": 2.0}, {"gradient_penalty": 10.0}, {"r1": 3.0, "r2": 2.0, "gradient_penalty": 10.0}]
)
def test_a_turn_with_slope_penalties_moves_the_critic_as_worked_out(
    weights: dict[str, float], accumulation: int
) -> None:
    """On D(x) = a x the gradient of the Wasserstein loss is E[G(z)] - E[x], of R1 and of R2 a, of the gradient penalty
    2 (|a| - 1) a / |a|; a batch in parts gives the same."""
    objective = tiny(loss="wasserstein", **weights)
    before = objective.critic.direction.detach().clone()
    pieces = [Part(Batch(piece), seed) for seed, piece in enumerate(real().images.chunk(accumulation))]
    taken, logs = turn(objective).take(pieces, 1.0)
    length = before.norm()
    gradient = objective.generator.image.detach().flatten() - real().images.flatten(1).mean(dim=0)
    gradient = gradient + (weights.get("r1", 0) + weights.get("r2", 0)) * before
    gradient = gradient + weights.get("gradient_penalty", 0) * 2 * (length - 1) * before / length
    torch.testing.assert_close(objective.critic.direction.detach(), before - 0.1 * gradient, atol=1e-4, rtol=1e-4)
    known = {"r1": length**2 / 2, "r2": length**2 / 2, "gradient_penalty": (length - 1) ** 2}
    for name, weight in weights.items():
        torch.testing.assert_close(logs[name], known[name])
        assert taken - logs["critic_loss"] > 0.99 * weight * known[name]
    assert all(weight.grad is None for weight in objective.generator.parameters())


EVERYTHING: dict[str, Any] = {
    "gradient_penalty": 1.0,
    "r1": 1.0,
    "r2": 1.0,
    "label_flipping": 0.1,
    "instance_noise": 0.1,
    "instance_noise_turns": 10,
    "augmentation": ("colour", "translation", "cutout"),
    "feature_matching": 1.0,
}


def dcgan(critic: dict[str, Any] | None = None, **settings: Any) -> Adversarial:
    torch.manual_seed(0)
    read = AdversarialSettings.read(settings, "objective")
    choices = {
        "generator": {"name": "dcgan-generator", "width": 8},
        "critic": {"name": "dcgan-critic", "width": 8, **(critic or {})},
    }
    ports = Adversarial.ports(read, IMAGE, 0)
    return Adversarial(read, {role: build_network(choices[role], port, role) for role, port in ports.items()})


def test_bfloat16_penalises_nearly_the_same() -> None:
    """Slopes are differentiated through the critic's bfloat16 arithmetic: a hundredth or so away, and finite."""
    found = {}
    for bfloat16 in (False, True):
        objective = dcgan({"width": 32}, **EVERYTHING)
        torch.manual_seed(1)
        _, found[bfloat16] = turn(objective, rate=0.01, bfloat16=bfloat16).take([Part(real())], 1.0)
        assert all(torch.isfinite(weight).all() for weight in objective.critic.parameters())
    for name in ("r1", "r2", "gradient_penalty"):
        torch.testing.assert_close(found[True][name], found[False][name], rtol=0.1, atol=0)


@pytest.mark.parametrize("name", ["r1", "r2"])
def test_r1_looks_at_real_and_r2_at_fake_images(name: str) -> None:
    """On D(x) = c x^2 / 2 the slope is |c x|, and the penalty c^2 E[x^2] / 2."""

    class Quadratic(Linear):
        def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
            return 0.5 * self.direction[0] * images.flatten(1).square().sum(dim=1, keepdim=True)

    read = AdversarialSettings.read({name: 1.0}, "objective")
    objective = Adversarial(read, {"generator": OneImage(), "critic": Quadratic()})
    loss = objective.loss(objective.players[0], real())
    seen = real().images if name == "r1" else objective.generator.image.detach()
    expected = 0.5 * objective.critic.direction.detach()[0] ** 2 * seen.square().flatten(1).sum(dim=1).mean()
    torch.testing.assert_close(loss.logs[name], expected)
    torch.testing.assert_close(loss.value.detach(), loss.logs["critic_loss"] + expected)


def test_weights_are_clipped_after_the_critic_s_turn_and_the_critic_s_alone() -> None:
    objective = tiny(loss="wasserstein", weight_clip=0.01)
    turn(objective).take([Part(real())], 1.0)
    assert objective.critic.direction.abs().max().item() == pytest.approx(0.01)
    image = objective.generator.image.detach().clone()
    objective.critic.direction.data.fill_(1.0)
    turn(objective, player=1).take([Part(real())], 1.0)
    assert torch.equal(objective.critic.direction.detach(), torch.ones(64))
    torch.testing.assert_close(objective.generator.image.detach(), image + 0.1)  # uphill along a, whose values are 1


def test_smoothed_labels_are_the_loss_with_a_lower_target() -> None:
    objective = tiny(loss="least-squares", label_smoothing=0.1)
    of_real = objective.critic(real().images)
    of_fake = objective.critic(objective.generator.image)
    expected = 0.5 * (of_real - 0.9).square().mean() + 0.5 * of_fake.square().mean()
    torch.testing.assert_close(objective.loss(objective.players[0], real()).value, expected)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_flipped_pairs_are_told_the_wrong_way_round(name: str) -> None:
    objective = tiny(loss=name, label_flipping=0.3, r1=1.0)
    outputs, others = torch.randn(50, 1), torch.randn(50, 1)
    torch.manual_seed(4)
    told = objective._told(outputs, others)
    torch.manual_seed(4)
    wrong = torch.rand(50, 1) < 0.3
    assert 5 < wrong.sum() < 30
    expected = LOSSES[name].critic(torch.where(wrong, others, outputs), torch.where(wrong, outputs, others))
    torch.testing.assert_close(told, expected)


def test_the_share_of_flipped_pairs_is_the_one_asked_for() -> None:
    """With D = 1 on real and 0 on fake images the Wasserstein loss is -1, and 1 where flipped: -(1 - 2 p)."""
    objective = tiny(loss="wasserstein", r1=1.0, label_flipping=0.2)
    torch.manual_seed(0)
    told = objective._told(torch.ones(10_000, 1), torch.zeros(10_000, 1)).item()
    assert told == pytest.approx(-0.6, abs=5 * 2 * (0.2 * 0.8 / 10_000) ** 0.5)


def test_instance_noise_falls_in_a_straight_line_over_the_critic_s_turns() -> None:
    objective = tiny(instance_noise=0.4, instance_noise_turns=4)
    seen = []
    for _ in range(6):
        seen.append(objective.noise())
        turn(objective).take([Part(real())], 1.0)
        turn(objective, player=1).take([Part(real())], 1.0)
    assert seen == pytest.approx([0.4, 0.3, 0.2, 0.1, 0.0, 0.0])
    taken_up = tiny(instance_noise=0.4, instance_noise_turns=4)
    objective.critic_turns = 3
    taken_up.load_state(objective.state())
    assert taken_up.noise() == pytest.approx(0.1)
    constant = tiny(instance_noise=0.4)
    constant.critic_turns = 10**6
    assert constant.noise() == 0.4 and constant.state() == {}


def test_instance_noise_is_on_real_and_on_fake_images_in_both_turns() -> None:
    objective, seen = tiny(loss="relativistic", instance_noise=0.5), []
    objective.critic.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].detach()))
    batch = real(500)
    for player in objective.players:
        objective.loss(player, batch)
    clean = torch.cat([batch.images, objective.generator.image.detach().expand(500, -1, -1, -1)])
    for shown in seen:
        noise = shown - clean
        assert noise.std().item() == pytest.approx(0.5, rel=0.02)
        assert abs(noise.mean().item()) < 5 * 0.5 / noise.numel() ** 0.5
        assert noise[:500].std().item() == pytest.approx(noise[500:].std().item(), rel=0.03)
    assert len(seen) == 2


def test_feature_matching_pulls_the_generator_to_the_mean_of_the_features() -> None:
    """With pixels for features the distance is |E[x] - image|^2, its gradient 2 (image - E[x])."""
    plain, matching = tiny(), tiny(feature_matching=0.5)
    mean, image = real().images.mean(dim=0, keepdim=True), matching.generator.image
    loss = matching.loss(matching.players[1], real())
    expected = plain.loss(plain.players[1], real()).value + 0.5 * (mean - image).square().sum()
    torch.testing.assert_close(loss.value, expected)
    (gradient,) = torch.autograd.grad(loss.value, image)
    torch.testing.assert_close(gradient, (image - mean - matching.critic.direction.view(1, 1, 8, 8)).detach())


def test_augmentation_changes_what_the_critic_sees_in_both_turns() -> None:
    for player in (0, 1):
        losses = []
        for names in ((), ("colour", "translation", "cutout")):
            objective = tiny(loss="relativistic", augmentation=names)
            torch.manual_seed(5)
            loss = objective.loss(objective.players[player], real()).value
            loss.backward()
            losses.append(loss.item())
            weight = next(objective.players[player].module.parameters())
            assert weight.grad is not None and torch.isfinite(weight.grad).all()
        assert losses[0] != losses[1]


@pytest.mark.parametrize("spectral", [False, True])
@pytest.mark.parametrize("name", sorted(LOSSES))
def test_all_stabilisers_go_together_with_every_loss(name: str, spectral: bool) -> None:
    more = {"label_smoothing": 0.1} if LOSSES[name].has_target else {}
    objective = dcgan({"spectral_norm": spectral}, loss=name, **EVERYTHING, **more)
    for player in objective.players:
        objective.loss(player, real(4)).value.backward()
        for key, weight in player.module.named_parameters():
            assert weight.grad is not None and torch.isfinite(weight.grad).all(), key


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "hinge", "label_smoothing": 0.1}, r"objective.label_smoothing.*hinge.*no target.*least-squares"),
        ({"weight_clip": 0.01, "gradient_penalty": 10}, r"objective.gradient_penalty.*clipped weights"),
        ({"instance_noise_turns": 100}, r"objective.instance_noise_turns.*no noise to fall"),
        ({"augmentation": ["colour", "cutuot"]}, r"objective.augmentation.*did you mean `cutout`"),
        ({"label_flipping": 0.5}, r"objective.label_flipping.*less than 0.5"),
    ],
)
def test_settings_that_contradict_each_other_say_why(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        AdversarialSettings.read(settings, "objective")


@pytest.mark.parametrize(
    ("critic", "settings", "message"),
    [
        ({"normalisation": "batch"}, {"r1": 1.0}, r"objective.r1: not with batch normalisation"),
        ({"spectral_norm": True}, {"weight_clip": 0.01}, r"objective.weight_clip is 0.01.*spectral_norm divides"),
        ({}, {"loss": "wasserstein"}, r"objective.loss wasserstein has no least value.*weight_clip"),
    ],
)
def test_what_the_critic_cannot_give_says_why(critic: dict[str, Any], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        dcgan({"style": "sngan", **critic}, **settings)


@pytest.mark.parametrize("name", ["r1", "r2", "gradient_penalty"])
def test_compiled_networks_have_no_slopes_to_differentiate(name: str) -> None:
    assert not tiny().differentiates_gradients
    with pytest.raises(UserError, match=r"training.compile is true, but this objective differentiates gradients"):
        train(tiny(**{name: 1.0}), some_pixels(IMAGE), TrainingSettings(steps=1, compile=True))


def test_a_critic_without_features_cannot_be_matched() -> None:
    settings = AdversarialSettings.read({"feature_matching": 1.0}, "objective")
    with pytest.raises(UserError, match=r"objective.feature_matching is 1.0, but Linear has no `features`"):
        Adversarial(settings, {"generator": OneImage(), "critic": Linear()})
