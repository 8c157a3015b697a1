"""Baselines with a closed form: what every trained model has to beat.

Each is a map of standard normal noise to images, so that the one-shot sampler draws from it as from any generator,
and each fits itself to the training split in `fit`. Everything learned lies in buffers whose shapes follow from
settings and port. The noise of one image is `latent_size` numbers: one a pixel value, and one to pick a mixture's
component.
"""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from genforge.contracts import ImageShape, Network, Port, PortKind, TrainingData
from genforge.settings import Settings, UserError

FULL_UP_TO = 3072  # values of an image (32x32 RGB) up to which the whole covariance is decomposed
OVERSAMPLE, ITERATIONS = 16, 4  # of the subspace iteration for larger images


def latent_size(image: ImageShape) -> int:
    """Numbers of noise that a baseline turns into one image of this shape."""
    return image.size + 1


class Baseline(Network):
    """A distribution over images that fits itself. forward(latent (n, image.size + 1)) -> (n, c, h, w)."""

    kind: ClassVar[PortKind] = "latent_to_image"
    takes_points = True

    def __init__(self, settings: Settings, port: Port) -> None:
        super().__init__(settings, port)
        if port.latent_size != (size := latent_size(port.image)):
            raise UserError(
                f"a baseline's latent has a number for each value of an image and one more, {size}, not "
                f"{port.latent_size}; choose the objective closed-form, or another network"
            )

    @abstractmethod
    def fit(self, data: TrainingData) -> None:
        """Set the buffers from the training split."""

    @abstractmethod
    def draw(self, pixels: Tensor, choice: Tensor) -> Tensor:
        """Standard normal noise, (n, image.size) and (n,), to flat images (n, image.size)."""

    @abstractmethod
    def log_density(self, points: Tensor, cell: float = 0.0) -> Tensor:
        """Natural logarithm of the density of flat images, (n, image.size) float64 in [-1, 1], to (n,); -inf where the
        baseline never draws.

        Args:
            cell: of what was fitted to images on a grid this wide, made continuous by uniform noise over their cells;
                0: of what was fitted, which may have no density where a value never varied.
        """

    def forward(self, latent: Tensor, labels: Tensor | None = None) -> Tensor:
        shape = self.port.image
        images = self.draw(latent[:, : shape.size], latent[:, shape.size])
        return images.unflatten(1, (shape.channels, shape.height, shape.width))


class BoxSettings(Settings):
    """There is nothing to set."""


class Box(Baseline):
    """Every pixel by itself, uniform between its smallest and largest training value: the likeliest box."""

    settings_type = BoxSettings
    low: Tensor
    high: Tensor

    def __init__(self, settings: BoxSettings, port: Port) -> None:
        super().__init__(settings, port)
        self.register_buffer("low", torch.full((port.image.size,), -1.0))
        self.register_buffer("high", torch.full((port.image.size,), 1.0))

    def fit(self, data: TrainingData) -> None:
        low, high = torch.full_like(self.low, torch.inf), torch.full_like(self.high, -torch.inf)
        for chunk in data.chunks():
            flat = chunk.images.flatten(1).to(low)
            low, high = torch.minimum(low, flat.amin(dim=0)), torch.maximum(high, flat.amax(dim=0))
        self.low.copy_(low)
        self.high.copy_(high)

    def draw(self, pixels: Tensor, choice: Tensor) -> Tensor:
        return self.low + (self.high - self.low) * torch.special.ndtr(pixels)

    def log_density(self, points: Tensor, cell: float = 0.0) -> Tensor:
        low, high = self.low.double() - cell / 2, self.high.double() + cell / 2
        # The border belongs to the box: float32 rounds values at it by up to 6e-8.
        inside = ((points >= low - 1e-6) & (points <= high + 1e-6)).all(dim=1)
        return torch.where(inside, -(high - low).log().sum(), -torch.inf)


class GaussianSettings(Settings):
    components: int = Field(
        512,
        ge=1,
        le=FULL_UP_TO,
        description=f"images of more than {FULL_UP_TO} values (32x32 RGB): how many principal directions are kept, the "
        "variance left over being spread evenly over all others. Smaller images keep every one",
    )


class Gaussian(Baseline):
    """One Gaussian with full covariance, by maximum likelihood: image = mean + C^(1/2) noise.

    C^(1/2) is the symmetric root from C's eigenvalues, so that a pixel that never varies needs no jitter. Images of
    more than 3072 values have the covariance of probabilistic principal component analysis (Tipping & Bishop 1999,
    section 3.2): the first `components` directions, and the mean of the remaining eigenvalues in every other.
    """

    settings_type = GaussianSettings
    mean: Tensor
    directions: Tensor  # (image.size, rank), orthonormal columns
    deviations: Tensor  # (rank,), standard deviation along each
    rest: Tensor  # scalar, standard deviation in every other direction

    def __init__(self, settings: GaussianSettings, port: Port) -> None:
        super().__init__(settings, port)
        size = port.image.size
        rank = size if size <= FULL_UP_TO else settings.components
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("directions", torch.eye(size, rank))
        self.register_buffer("deviations", torch.ones(rank))
        self.register_buffer("rest", torch.zeros(()))

    def fit(self, data: TrainingData) -> None:
        found = principal(data, rank=len(self.deviations), device=self.mean.device)
        self.mean.copy_(found.mean)
        self.directions.copy_(found.directions)
        self.deviations.copy_(found.variances.sqrt())
        self.rest.copy_(found.rest.sqrt())

    def draw(self, pixels: Tensor, choice: Tensor) -> Tensor:
        along = pixels @ self.directions
        return self.mean + self.rest * pixels + ((self.deviations - self.rest) * along) @ self.directions.T

    def log_density(self, points: Tensor, cell: float = 0.0) -> Tensor:
        noise = variance_of(cell)
        variances = self.deviations.double().square() + noise
        along, beside = _split(points - self.mean, self.directions)
        inside = 0.5 * (along.square() / variances + (2 * math.pi * variances).log()).sum(dim=1)
        return -inside - _evenly(beside, self.rest.double().square() + noise, _left_over(self.directions))


class MixtureSettings(Settings):
    components: int = Field(10, ge=1, le=1000, description="Gaussians in the mixture")
    dimensions: int = Field(
        100,
        ge=1,
        le=512,
        description="principal directions in which the mixture lives, when an image has more values; the variance left "
        "over is spread evenly over all others",
    )
    variance_floor: float = Field(
        1e-3,
        gt=0.0,
        description="added to the variance of each component in every direction, so that none collapses onto a few "
        "images; pixels are in [-1, 1]",
    )
    images: int = Field(20_000, ge=10, description="at most this many training images, evenly spaced, are given to EM")
    iterations: int = Field(200, ge=1, description="at most this many rounds of EM")


class Mixture(Baseline):
    """A mixture of Gaussians with full covariances in principal directions, by expectation maximisation.

    The algorithm is scikit-learn's, on double precision; `shares`, `centres` and `factors` are what it found.
    """

    settings_type = MixtureSettings
    mean: Tensor
    directions: Tensor  # (image.size, rank), orthonormal columns
    rest: Tensor  # scalar, standard deviation in every other direction
    shares: Tensor  # (components,), sum 1
    centres: Tensor  # (components, rank)
    factors: Tensor  # (components, rank, rank), lower Cholesky factors of the covariances

    def __init__(self, settings: MixtureSettings, port: Port) -> None:
        super().__init__(settings, port)
        self.settings = settings
        size, count = port.image.size, settings.components
        rank = min(size, settings.dimensions)
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("directions", torch.eye(size, rank))
        self.register_buffer("rest", torch.zeros(()))
        self.register_buffer("shares", torch.full((count,), 1 / count))
        self.register_buffer("centres", torch.zeros(count, rank))
        self.register_buffer("factors", torch.eye(rank).repeat(count, 1, 1))

    def fit(self, data: TrainingData) -> None:
        """Raises UserError when there are fewer images than components."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture

        found = principal(data, rank=self.centres.shape[1], device=self.mean.device)
        reduced = torch.cat([flat @ found.directions for flat in _centred(data, found.mean)])
        stride = -(-len(reduced) // self.settings.images)
        points = reduced[::stride].cpu().numpy()
        if len(points) < self.settings.components:
            raise UserError(
                f"mixture: components is {self.settings.components}, but EM has only {len(points)} images; give at "
                f"least as many images as components"
            )
        mixture = GaussianMixture(
            self.settings.components,
            reg_covar=self.settings.variance_floor,
            max_iter=self.settings.iterations,
            random_state=int(torch.randint(2**31, ())),
        )
        with warnings.catch_warnings():
            # EM that is stopped early has still climbed at every round; what it leaves is a mixture like any other.
            warnings.simplefilter("ignore", ConvergenceWarning)
            mixture.fit(points)
        self.mean.copy_(found.mean)
        self.directions.copy_(found.directions)
        self.rest.copy_(found.rest.sqrt())
        self.shares.copy_(torch.from_numpy(mixture.weights_))
        self.centres.copy_(torch.from_numpy(mixture.means_))
        self.factors.copy_(torch.linalg.cholesky(torch.from_numpy(mixture.covariances_)))

    def draw(self, pixels: Tensor, choice: Tensor) -> Tensor:
        along = pixels @ self.directions  # (n, rank), standard normal too
        edges = self.shares.double().cumsum(0)[:-1]
        component = torch.searchsorted(edges, torch.special.ndtr(choice.double()))
        within = self.centres[component]
        for one in component.unique():  # a factor for every image at once would not fit in memory
            chosen = component == one
            within[chosen] += along[chosen] @ self.factors[one].T
        return self.mean + self.rest * pixels + (within - self.rest * along) @ self.directions.T

    def log_density(self, points: Tensor, cell: float = 0.0) -> Tensor:
        noise = variance_of(cell)
        along, beside = _split(points - self.mean, self.directions)
        told = []
        shares = self.shares.double().log()
        for share, centre, factor in zip(shares, self.centres.double(), self.factors.double(), strict=True):
            covariance = factor @ factor.T + noise * torch.eye(len(factor), dtype=factor.dtype, device=factor.device)
            root = torch.linalg.cholesky(covariance)
            whitened = torch.linalg.solve_triangular(root, (along - centre).T, upper=False)  # (rank, n)
            determinant = root.diagonal().log().sum()
            constant = 0.5 * len(centre) * math.log(2 * math.pi)
            told.append(share - determinant - constant - 0.5 * whitened.square().sum(dim=0))
        outside = _evenly(beside, self.rest.double().square() + noise, _left_over(self.directions))
        return torch.stack(told).logsumexp(dim=0) - outside


def variance_of(cell: float) -> float:
    """Of noise that is uniform over a cell."""
    return cell**2 / 12


def _split(centred: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Float64 points less their mean: what lies along the directions, (n, rank), and the squared length of the rest,
    (n,)."""
    along = centred @ directions.double()
    return along, (centred.square().sum(dim=1) - along.square().sum(dim=1)).clamp(min=0.0)


def _left_over(directions: Tensor) -> int:
    """How many directions there are beside these."""
    return directions.shape[0] - directions.shape[1]


def _evenly(squared: Tensor, variance: Tensor, dimensions: int) -> Tensor:
    """Negative log density of points of these squared lengths, (n,), under a centred Gaussian of one variance."""
    if dimensions == 0:
        return torch.zeros_like(squared)
    return 0.5 * (squared / variance + dimensions * (2 * math.pi * variance).log())


@dataclass(frozen=True)
class Principal:
    """Principal directions of a data set of flat images of d values, all float64.

    mean (d,); directions (d, rank), orthonormal columns by falling variance; variances (rank,), the largest eigenvalues
    of the covariance (the maximum likelihood estimate: divided by n); rest, scalar: the mean of the remaining ones.
    """

    mean: Tensor
    directions: Tensor
    variances: Tensor
    rest: Tensor


def principal(data: TrainingData, rank: int, device: torch.device) -> Principal:
    """Principal directions, in passes over the data that never hold it whole.

    Up to 3072 values an image from the full covariance; beyond by subspace iteration (Halko et al. 2011, Alg. 4.4).
    """
    size = data.shape.size
    mean = torch.zeros(size, dtype=torch.float64, device=device)
    for flat in _centred(data, mean.clone()):
        mean += flat.sum(dim=0)
    mean /= data.count

    def covariance_times(columns: Tensor) -> Tensor:
        product = torch.zeros_like(columns)
        for flat in _centred(data, mean):
            product.addmm_(flat.T, flat @ columns)
        return product / data.count

    if size <= FULL_UP_TO:
        covariance = torch.zeros(size, size, dtype=torch.float64, device=device)
        for flat in _centred(data, mean):
            covariance.addmm_(flat.T, flat)
        covariance /= data.count
        total, basis, inner = covariance.trace(), None, covariance
    else:
        total = sum((flat.square().sum() for flat in _centred(data, mean)), mean.new_zeros(())) / data.count
        basis = torch.randn(size, rank + OVERSAMPLE, dtype=torch.float64, device=device)
        for _ in range(ITERATIONS):
            basis = torch.linalg.qr(covariance_times(basis)).Q
        inner = basis.T @ covariance_times(basis)

    variances, vectors = torch.linalg.eigh((inner + inner.T) / 2)  # rising
    variances, vectors = variances.flip(0)[:rank].clamp(min=0.0), vectors.flip(1)[:, :rank]
    directions = vectors if basis is None else basis @ vectors
    rest = (total - variances.sum()).clamp(min=0.0) / max(1, size - rank)
    return Principal(mean, directions, variances, rest if rank < size else torch.zeros_like(rest))


def _centred(data: TrainingData, mean: Tensor) -> Iterator[Tensor]:
    """Flat float64 images less the mean, in chunks (n, d)."""
    for chunk in data.chunks():
        yield chunk.images.flatten(1).to(mean) - mean
