"""Losses against values worked out by hand and against torch's own cross entropy."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from genforge.objectives.gan_losses import LOSSES

REAL, FAKE = torch.tensor([[2.0], [0.5], [-1.0]]), torch.tensor([[-3.0], [0.0], [1.0]])


def test_hinge_by_hand() -> None:
    """Real: max(0, 1 - (2, 0.5, -1)) = 0, 0.5, 2. Fake: max(0, 1 + (-3, 0, 1)) = 0, 1, 2."""
    pair = LOSSES["hinge"]
    assert pair.critic(REAL, FAKE).item() == pytest.approx(2.5 / 3 + 3 / 3)
    assert pair.generator(None, FAKE).item() == pytest.approx(2 / 3)


def test_non_saturating_is_cross_entropy_with_logits() -> None:
    pair = LOSSES["non-saturating"]
    one, zero = torch.ones_like(REAL), torch.zeros_like(FAKE)
    critic = functional.binary_cross_entropy_with_logits(REAL, one) + functional.binary_cross_entropy_with_logits(
        FAKE, zero
    )
    torch.testing.assert_close(pair.critic(REAL, FAKE), critic)
    torch.testing.assert_close(pair.generator(None, FAKE), functional.binary_cross_entropy_with_logits(FAKE, one))


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_players_pull_against_each_other(name: str) -> None:
    """The critic wants a higher output on real and a lower one on fake images; the generator a higher one on fake."""
    real, fake = torch.zeros(4, 1, requires_grad=True), torch.zeros(4, 1, requires_grad=True)
    to_real, to_fake = torch.autograd.grad(LOSSES[name].critic(real, fake), (real, fake))
    assert (to_real < 0).all()
    assert (to_fake > 0).all()
    (to_fake,) = torch.autograd.grad(LOSSES[name].generator(real.detach(), fake), fake)
    assert (to_fake < 0).all()


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_far_outputs_stay_finite(name: str) -> None:
    far = torch.tensor([[1e4], [-1e4]])
    assert torch.isfinite(LOSSES[name].critic(far, far))
    assert torch.isfinite(LOSSES[name].generator(far, far))
