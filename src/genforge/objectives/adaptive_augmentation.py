"""Adaptive discriminator augmentation, ADA.

Karras et al. 2020, "Training generative adversarial networks with limited data" (sections and appendices are of it).

Every image that the critic is shown goes through a pipeline of random changes, each of which is made with probability p
or else left out. As long as p is below about 0.8, the images that went in are likelier than any others to come out
unchanged, so that the distribution behind can be told from what is shown (section 2.2 and appendix C), and the
generator does not learn to draw the changes. How large p is follows from how sure the critic is of real images
(section 3): of images that it knows by heart it is always sure.

Where we differ: changes of place are made in one resampling with bilinear interpolation and without the paper's
wavelet filters; the paper's filters, noise and cutout are not here, as its section 3 leaves them out too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.nn import functional

STRONGEST = 0.8  # beyond it changes leak into what is generated (section 2.2)
SIZE = 0.2 * math.log(2)  # standard deviation of the logarithm of a change of size (appendix B: 2^N(0, 0.2))
SHIFT = 0.125  # of the side, at most
BRIGHTER, CONTRAST, SATURATION = 0.2, 0.5 * math.log(2), math.log(2)  # standard deviations, appendix B

Matrix = Tensor  # (n, 3, 3): where a place of the new image comes from, in coordinates of -1 to 1


def strength_after(strength: Tensor, sure: Tensor, target: float, images: int | Tensor, over: int) -> Tensor:
    """p after `images` more real images of which the critic is `sure`, E[sign D(x)] = r_t of eq. 1, -1 to 1: it rises
    where that is above the target and falls where it is below, from 0 to 1 in `over` images; 0 to `STRONGEST`."""
    return (strength + (sure - target).sign() * (images / over)).clamp(0.0, STRONGEST)


class Adaptation:
    """How strong the changes are.

    Attributes:
        strength: p, ().
    """

    def __init__(self, target: float, over: int) -> None:
        self.target, self.over = target, over
        self.strength = torch.zeros(())

    def settle(self, sure: Tensor, images: Tensor) -> None:
        """The critic's turn is over: on so many real images, (), it was so `sure`, see `strength_after`."""
        self.strength = strength_after(self.strength.to(sure.device), sure, self.target, images, self.over)


def sureness(sides: Tensor) -> Tensor:
    """E[sign D(x)], (), of the critic's outputs on real images (n, 1), less the value at which it takes them for
    neither."""
    return sides.detach().float().sign().mean()


def vary(images: Tensor, names: Iterable[str], strength: float | Tensor) -> Tensor:
    """Images (n, c, h, w) through the named groups of changes, each change made with probability `strength`."""
    for name in names:
        images = GROUPS[name](images, strength)
    return images


def mirrored(images: Tensor, strength: float | Tensor) -> Tensor:
    """Left and right exchanged, or not, by the toss of a coin."""
    turned = _chosen(images, strength) & (torch.rand(len(images), device=images.device) < 0.5)
    return torch.where(turned[:, None, None, None], images.flip(3), images)


def blitted(images: Tensor, strength: float | Tensor) -> Tensor:
    """Turned by a multiple of 90 degrees (180 where height and width differ), then moved by whole pixels; what comes in
    at a border is the mirror image of what is there."""
    quarters = torch.randint(4, (len(images),), device=images.device) * _chosen(images, strength)
    if images.shape[2] != images.shape[3]:
        quarters = quarters // 2 * 2
    turned = images
    for count in (1, 2, 3):
        if count == 2 or images.shape[2] == images.shape[3]:
            rotated = torch.rot90(images, count, dims=(2, 3))
            turned = torch.where((quarters == count)[:, None, None, None], rotated, turned)
    moved = _chosen(images, strength)
    rows, columns = (_whole_shift(side, len(images), images.device) * moved for side in images.shape[2:])
    return _taken(turned, rows, columns)


def moved(images: Tensor, strength: float | Tensor) -> Tensor:
    """Scaled, turned by any angle, stretched and turned again, and shifted by a fraction, in one resampling."""
    count, _, height, width = images.shape
    # With two chances to be turned, each is rarer, so that both together have the strength (appendix B).
    each_turn = 1 - (1 - torch.as_tensor(strength, device=images.device)).sqrt()
    matrix = torch.eye(3, device=images.device).expand(count, 3, 3)
    size = _normal(images, strength, SIZE).exp()
    matrix = matrix @ _scaling(size, size)
    matrix = matrix @ _rotation(_angle(images, each_turn), height / width)
    stretch = _normal(images, strength, SIZE).exp()
    matrix = matrix @ _scaling(stretch, 1 / stretch)
    matrix = matrix @ _rotation(_angle(images, each_turn), height / width)
    matrix = matrix @ _translation(*(_normal(images, strength, SHIFT) for _ in range(2)))
    grid = functional.affine_grid(matrix[:, :2], list(images.shape), align_corners=False).to(images.dtype)
    return _resampled(images, grid)


def coloured(images: Tensor, strength: float | Tensor) -> Tensor:
    """Brightness, contrast, light and dark exchanged, hue and saturation (the last two of colour images alone)."""
    shift = _normal(images, strength, BRIGHTER)
    factor = _normal(images, strength, CONTRAST).exp()
    inverted = _chosen(images, strength) & (torch.rand(len(images), device=images.device) < 0.5)
    images = (images + _per_image(shift)) * _per_image(factor)
    gray = images.mean(dim=1, keepdim=True)
    images = torch.where(_per_image(inverted), images - 2 * gray, images)
    if images.shape[1] != 3:
        return images
    gray = images.mean(dim=1, keepdim=True)
    images = torch.einsum("nij,njhw->nihw", _hue(_angle(images, strength)).to(images.dtype), images - gray)
    return gray + images * _per_image(_normal(images, strength, SATURATION).exp())


GROUPS: dict[str, Callable[[Tensor, float | Tensor], Tensor]] = {
    "mirror": mirrored,
    "blit": blitted,
    "geometry": moved,
    "colour": coloured,
}


def _chosen(images: Tensor, strength: float | Tensor) -> Tensor:
    """Which images a change is made to: bool (n,)."""
    return torch.rand(len(images), device=images.device) < strength


def _normal(images: Tensor, strength: float | Tensor, deviation: float) -> Tensor:
    """Normal noise (n,), 0 for images that are not chosen."""
    return deviation * torch.randn(len(images), device=images.device) * _chosen(images, strength)


def _angle(images: Tensor, strength: float | Tensor) -> Tensor:
    """Any angle, radians (n,), 0 for images that are not chosen."""
    turn = torch.rand(len(images), device=images.device) * 2 - 1
    return math.pi * turn * _chosen(images, strength)


def _per_image(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def _whole_shift(side: int, count: int, device: torch.device) -> Tensor:
    most = round(side * SHIFT)
    return torch.randint(-most, most + 1, (count,), device=device)


def _taken(images: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Images moved by whole pixels (n,), mirrored at the border."""
    count, _, height, width = images.shape
    rows = _reflected(torch.arange(height, device=images.device) - down[:, None], height)
    columns = _reflected(torch.arange(width, device=images.device) - right[:, None], width)
    image = torch.arange(count, device=images.device)[:, None, None]
    return images.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _scaling(right: Tensor, down: Tensor) -> Matrix:
    return torch.diag_embed(torch.stack([1 / right, 1 / down, torch.ones_like(right)], dim=1))


def _rotation(angle: Tensor, aspect: float) -> Matrix:
    """By an angle on the image, whose coordinates run from -1 to 1 on both axes: aspect is height / width."""
    cosine, sine = angle.cos(), angle.sin()
    zero, one = torch.zeros_like(angle), torch.ones_like(angle)
    rows = [cosine, sine * aspect, zero, -sine / aspect, cosine, zero, zero, zero, one]
    return torch.stack(rows, dim=1).unflatten(1, (3, 3))


def _translation(right: Tensor, down: Tensor) -> Matrix:
    """By shares of the sides."""
    zero, one = torch.zeros_like(right), torch.ones_like(right)
    rows = [one, zero, 2 * right, zero, one, 2 * down, zero, zero, one]
    return torch.stack(rows, dim=1).unflatten(1, (3, 3))


def _hue(angle: Tensor) -> Tensor:
    """(n, 3, 3): turns colours about the axis of the grays, by Rodrigues' formula."""
    cosine, sine = angle.cos()[:, None, None], angle.sin()[:, None, None]
    axis = 1 / math.sqrt(3)
    cross = axis * torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]], device=angle.device)
    return cosine * torch.eye(3, device=angle.device) + sine * cross + (1 - cosine) / 3


def _resampled(images: Tensor, grid: Tensor) -> Tensor:
    """Images at the places of `grid` (n, h, w, 2) in -1 to 1, x first, mirrored at the border; bilinear.

    As `torch.nn.functional.grid_sample`, whose derivative has none of its own, which a penalty on slopes wants.
    """
    count, _, height, width = images.shape
    x = (grid[..., 0] + 1) * width / 2 - 0.5
    y = (grid[..., 1] + 1) * height / 2 - 0.5
    left, top = x.floor(), y.floor()
    pixels = images.permute(0, 2, 3, 1)  # (n, h, w, c)
    image = torch.arange(count, device=images.device)[:, None, None]
    result = torch.zeros_like(pixels)
    for right_one in (0, 1):
        for lower_one in (0, 1):
            columns, rows = left + right_one, top + lower_one
            weight = (1 - (x - columns).abs()) * (1 - (y - rows).abs())
            found = pixels[image, _reflected(rows, height), _reflected(columns, width)]
            result = result + weight[..., None].to(pixels.dtype) * found
    return result.permute(0, 3, 1, 2)


def _reflected(places: Tensor, side: int) -> Tensor:
    """Whole places, however far outside, mirrored at both borders into 0 to side - 1."""
    folded = places.long() % (2 * side)
    return torch.where(folded >= side, 2 * side - 1 - folded, folded)
