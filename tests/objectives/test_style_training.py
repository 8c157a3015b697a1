"""What a style-based generator is trained with: path lengths, two styles in an image, penalties at some turns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from genforge import catalog
from genforge.contracts import ImageShape, Objective
from genforge.objectives import adversarial
from genforge.objectives.path_length import PathLength, path_lengths
from genforge.objectives.style_mixing import mixed
from genforge.settings import UserError
from genforge.training.turn import Part
from tests.objectives.test_stabilisers import dcgan, real, tiny, turn


class LinearStyles:
    """Its style is the latent, its image A w, whatever the noise: J_w is A."""

    styles, style_mean = 3, torch.zeros(4)
    noise_shapes = ((1, 8, 8),)

    def __init__(self, channels: int = 1) -> None:
        self.matrix = torch.randn(channels * 64, 4, generator=torch.Generator().manual_seed(1))

    def styled(self, latent: Tensor, labels: Tensor | None = None) -> Tensor:
        return latent

    def synthesise(self, styles: Tensor, noise: object = None) -> Tensor:
        return (styles.mean(dim=1) @ self.matrix.T).unflatten(1, (-1, 8, 8))


class Recording(LinearStyles):
    """Its image tells which style each layer got."""

    styles = 5

    def synthesise(self, styles: Tensor, noise: object = None) -> Tensor:
        return styles


@pytest.mark.parametrize("channels", [1, 3])
def test_a_path_s_length_is_that_of_the_jacobian_s_transpose_times_a_random_image(channels: int) -> None:
    generator, latent = LinearStyles(channels), torch.randn(500, 4, requires_grad=True)
    torch.manual_seed(3)
    found = path_lengths(generator, latent, None)  # type: ignore[arg-type]
    torch.manual_seed(3)
    direction = torch.randn(500, channels * 64) / 8  # the root of the pixels, as in the authors' code
    torch.testing.assert_close(found, (direction @ generator.matrix).norm(dim=1))
    # E |A^T y|^2 is the squared Frobenius norm of A over the number of pixels.
    assert found.square().mean().item() == pytest.approx(generator.matrix.square().sum().item() / 64, rel=0.1)


def test_the_penalty_is_the_squared_distance_from_the_running_mean() -> None:
    penalty, lengths = PathLength(), torch.tensor([1.0, 3.0])
    mean = 0.0
    for _ in range(3):
        mean = 0.99 * mean + 0.01 * 2.0
        assert penalty.penalty(lengths).item() == pytest.approx(((1 - mean) ** 2 + (3 - mean) ** 2) / 2)
        penalty.settle(lengths.mean())
        assert penalty.mean.item() == pytest.approx(mean)


def test_images_change_over_to_another_style_at_one_layer_or_not_at_all() -> None:
    latent = torch.randn(2000, 4)
    torch.manual_seed(0)
    styles = mixed(Recording(), latent, None, 0.6)  # type: ignore[arg-type]
    own = (styles == latent[:, None]).all(dim=2)  # (n, layers)
    assert own[:, 0].all()
    changes = (own[:, 1:] != own[:, :-1]).sum(dim=1)
    assert changes.max() == 1
    assert changes.float().mean().item() == pytest.approx(0.6, abs=0.05)
    at = own.sum(dim=1)[changes == 1]
    assert sorted(set(at.tolist())) == [1, 2, 3, 4]
    other = styles[:, -1][changes == 1]
    assert not (other[:, None] == latent[None]).all(dim=2).any()  # another latent, not another image's


def test_lazy_penalties_come_at_every_kth_turn_with_k_times_the_weight() -> None:
    """On D(x) = a x, R1 is |a|^2 / 2."""
    objective = tiny(r1=3.0, penalties_every=4)
    for number in range(6):
        r1 = objective.critic.direction.detach().square().sum() / 2
        taken, logs = turn(objective, rate=0.01).take([Part(real())], 1.0)
        expected = logs["critic_loss"] + (4 * 3.0 * r1 if number % 4 == 0 else 0.0)
        torch.testing.assert_close(taken, expected)
        assert ("r1" in logs) == (number % 4 == 0)


def test_which_turn_is_next_is_taken_over() -> None:
    objective, again = (tiny(r1=3.0, penalties_every=4) for _ in range(2))
    for _ in range(3):
        turn(objective).take([Part(real())], 1.0)
    again.load_state(objective.state())
    logs = [turn(again).take([Part(real())], 1.0)[1] for _ in range(2)]
    assert ["r1" in one for one in logs] == [False, True]


def styled(**settings: float) -> Objective:
    recipe = catalog.resolve(
        "test",
        {
            "from": "stylegan",
            "networks": {"generator": {"width": 4, "widest": 8}, "critic": {"width": 4, "widest": 8}},
            "objective": {"latent_size": 8, **settings},
        },
    )
    torch.manual_seed(0)
    return catalog.build_objective(recipe, ImageShape(1, 8, 8), 0)


def test_the_generator_s_loss_has_the_penalty_of_path_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    """Karras et al. 2020, eq. 4, times the turns that it stands for. A hundredth of the way from 0 the mean is 0.02."""
    monkeypatch.setattr(adversarial, "path_lengths", lambda *given: torch.tensor([1.0, 3.0]))
    objective = styled(path_length=2.0, path_length_every=3)
    loss = objective.loss(objective.players[1], real(4))
    assert (loss.value - loss.logs["generator_loss"]).item() == pytest.approx(
        2.0 * 3 * (0.98**2 + 2.98**2) / 2, rel=1e-5
    )


def test_generated_images_have_two_styles_as_often_as_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    shares: list[float] = []

    def recorded(generator: Any, latents: Tensor, labels: Tensor | None, share: float) -> Tensor:
        shares.append(share)
        return mixed(generator, latents, labels, share)

    monkeypatch.setattr(adversarial, "mixed", recorded)
    objective = styled(style_mixing=0.9)
    objective.loss(objective.players[1], real(4))
    assert shares == [0.9]


def test_the_generator_s_turns_have_a_path_length_at_every_kth() -> None:
    objective = styled(path_length=2.0, path_length_every=3, style_mixing=0.9)
    found = []
    for _ in range(5):
        loss = objective.loss(objective.players[1], real(4))
        assert torch.isfinite(loss.value)
        found.append("path_length" in loss.logs)
        objective.hear(objective.players[1], loss.seen)
        objective.after_step(objective.players[1])
    assert found == [True, False, False, True, False]
    assert objective.state()["mean_path_length"] > 0
    assert objective.differentiates_gradients


@pytest.mark.parametrize("settings", [{"path_length": 2.0}, {"style_mixing": 0.9}])
def test_a_generator_without_styles_is_told(settings: dict[str, float]) -> None:
    with pytest.raises(UserError, match=r"objective\.(path_length is 2|style_mixing is 0.9).*has no styles.*style-gen"):
        dcgan(**settings)
