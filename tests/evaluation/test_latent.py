"""Ways through a latent space whose decoder is the exact inverse of its encoder."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from genforge.catalog import build_network
from genforge.contracts import ImageShape, Network, Port
from genforge.evaluation.latent import COLUMNS, LatentSpace, strips
from genforge.settings import Settings, UserError

SHAPE = ImageShape(1, 8, 8)
SIZE = 64


class Turned(Network):
    """Codes are pixels, turned; the second half of the encoder's outputs are log-variances that nothing looks at."""

    settings_type = Settings

    def __init__(self, port: Port, way: Tensor, back: bool) -> None:
        super().__init__(Settings(), port)
        self.kind = "latent_to_image" if back else "image_to_vector"  # type: ignore[misc]
        self.way, self.back = nn.Parameter(way), back

    def forward(self, values: Tensor, labels: Tensor | None = None) -> Tensor:
        bias = 0.1 * labels[:, None] if labels is not None and self.port.classes else torch.zeros(())
        if self.back:
            return ((values - bias) @ self.way).view(-1, 1, 8, 8)
        codes = values.flatten(1) @ self.way + bias
        return torch.cat([codes, codes + 9], dim=1)


def networks(classes: int = 0) -> Mapping[str, Network]:
    way = torch.linalg.qr(torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(0))).Q
    encoder = Port("image_to_vector", SHAPE, outputs=2 * SIZE, classes=classes)
    decoder = Port("latent_to_image", SHAPE, latent_size=SIZE, classes=classes)
    return {"decoder": Turned(decoder, way.T.contiguous(), True), "encoder": Turned(encoder, way, False)}


IMAGES = np.random.default_rng(0).integers(90, 160, (40, 8, 8, 1), dtype=np.uint8)
LABELS = np.arange(40) % 4


def test_what_is_encoded_and_decoded_is_what_it_was() -> None:
    space = LatentSpace.of(networks())
    assert space.size == SIZE and space.encode(IMAGES).shape == (40, SIZE)
    assert np.abs(space.reconstruct(IMAGES).astype(int) - IMAGES).max() <= 1
    code = space.encode(IMAGES)
    assert np.array_equal(space.encode(space.decode(code)).numpy().round(1), code.numpy().round(1))


def test_a_traversal_changes_one_number_and_goes_through_the_image_itself() -> None:
    space = LatentSpace.of(networks())
    code = space.encode(IMAGES)[0]
    values = torch.stack([code[3] - 1, code[3], code[3] + 1])
    row = space.traverse(code, 3, values)
    assert np.abs(row[1].astype(int) - IMAGES[0]).max() <= 1
    moved = space.encode(row) - code
    assert moved[:, 3].tolist() == pytest.approx([-1, 0, 1], abs=0.05)
    assert moved[:, :3].abs().max() < 0.05
    with pytest.raises(UserError, match="dimension is 64; this latent space has 0 to 63"):
        space.traverse(code, 64, values)


def test_an_interpolation_has_both_ends_and_the_mean_in_the_middle() -> None:
    space = LatentSpace.of(networks())
    first, second = space.encode(IMAGES)[:2]
    way = space.interpolate(first, second, 5).astype(float)
    assert np.abs(way[0] - IMAGES[0]).max() <= 1 and np.abs(way[4] - IMAGES[1]).max() <= 1
    assert np.abs(way[2] - (IMAGES[0].astype(float) + IMAGES[1]) / 2).max() <= 1.5


def test_arithmetic_of_codes_is_that_of_images_where_the_space_is_flat() -> None:
    space = LatentSpace.of(networks())
    codes = space.encode(IMAGES)
    shifted = space.shift(codes[:1], codes[1], codes[2]).astype(int)
    expected = IMAGES[0].astype(int) - IMAGES[1] + IMAGES[2]
    assert np.abs(shifted[0] - expected.clip(0, 255)).max() <= 2


@pytest.mark.parametrize("classes", [0, 4])
@pytest.mark.parametrize("labels", [None, LABELS])
def test_pictures_are_whole_rows(labels: np.ndarray | None, classes: int) -> None:
    if labels is None and classes:
        pytest.skip("a conditional model has labels")
    found = strips(LatentSpace.of(networks(classes)), IMAGES, labels, 0 if labels is None else 4)
    assert list(found) == ["reconstructions", "traversals", "interpolations", "arithmetic"]
    for strip in found.values():
        assert strip.images.dtype == np.uint8 and strip.images.shape[1:] == (8, 8, 1)
        assert len(strip.images) % strip.columns == 0 and strip.words
    pairs = found["reconstructions"].images.reshape(-1, 2, COLUMNS, 64)
    assert np.abs(pairs[:, 0].astype(int) - pairs[:, 1]).max() <= 1
    if labels is not None:  # the diagonal beside the images: each as it is in its own class
        rows = found["arithmetic"].images.reshape(4, 5, 64).astype(int)
        assert all(np.abs(rows[own, 1 + own] - rows[own, 0]).max() <= 1 for own in range(4))


def test_a_model_without_an_encoder_is_told() -> None:
    generator = build_network(
        {"name": "mlp-generator", "widths": [8]}, Port("latent_to_image", SHAPE, latent_size=4), "test"
    )
    with pytest.raises(UserError, match="has no encoder"):
        LatentSpace.of({"generator": generator})
