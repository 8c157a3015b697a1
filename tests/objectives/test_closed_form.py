from __future__ import annotations

import pytest
import torch

from genforge.catalog import build_network
from genforge.contracts import ImageShape
from genforge.objectives.likelihood import ClosedForm, ClosedFormSettings
from genforge.settings import UserError
from tests.networks.network_cases import some_pixels

IMAGE = ImageShape(1, 8, 8)


def closed_form(name: str) -> ClosedForm:
    port = ClosedForm.ports(ClosedFormSettings(), IMAGE, 0)["network"]
    return ClosedForm(ClosedFormSettings(), {"network": build_network({"name": name}, port, "test")})


def test_preparing_is_all_there_is() -> None:
    objective, data = closed_form("box"), some_pixels(IMAGE)
    objective.prepare(data)
    assert objective.players == []
    assert torch.equal(objective.exported.state_dict()["low"], data.images.flatten(1).amin(0))


def test_a_network_that_cannot_fit_itself_is_told() -> None:
    with pytest.raises(UserError, match="box, gaussian, mixture, kernel-density"):
        closed_form("dcgan-generator")
