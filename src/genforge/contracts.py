"""What the rooms promise each other: images, batches, networks, players, objectives, samplers, densities.

Images are uint8 NHWC on disk and float NCHW in [-1, 1] in networks; the functions below are the only doors. Gray stays
one channel everywhere but at the feature extractor's own door.

A point of the plane is an image of one place with two channels, x and y: float32 (n, 1, 1, 2) on disk, in [-1, 1]
already, so that nothing is rounded. Wherever images are spoken of, points may stand; `ImageShape.is_point` tells.

Shapes and ports, which need no torch, are in `shapes.py`; who computes has them from here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from genforge.settings import Settings
from genforge.shapes import CELL as CELL
from genforge.shapes import EIGHT_BIT, POINTS, ImageShape, Port, PortKind
from genforge.shapes import POINT as POINT
from genforge.shapes import Taught as Taught


def to_network(images: Tensor) -> Tensor:
    """uint8 (n, height, width, channels) in 0..255 to float32 (n, channels, height, width) in [-1, 1]. Points, float32
    (n, 1, 1, 2), are only turned to (n, 2, 1, 1); a copy in any case."""
    if images.dtype != torch.uint8:
        return images.permute(0, 3, 1, 2).to(torch.float32, copy=True)
    return images.permute(0, 3, 1, 2).to(torch.float32).div_(127.5).sub_(1.0)


def to_pixels(images: Tensor) -> Tensor:
    """Float (n, channels, height, width) in [-1, 1] to uint8 (n, height, width, channels), rounded and clipped.

    Raises:
        ValueError: some value is not finite; a picture of NaN would look like a picture.
    """
    if not torch.isfinite(images).all():
        raise ValueError("images hold values that are not finite (NaN or infinity)")
    return images.float().add(1.0).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def to_stored(images: Tensor) -> Tensor:
    """What a network drew, float (n, channels, height, width), as such data lie on disk: images as `to_pixels` makes
    them, points float32 (n, 1, 1, 2) as they are.

    Raises:
        ValueError: some value is not finite.
    """
    if not ImageShape(*images.shape[1:]).is_point:
        return to_pixels(images)
    if not torch.isfinite(images).all():
        raise ValueError("points hold values that are not finite (NaN or infinity)")
    return images.float().permute(0, 2, 3, 1).contiguous()


class Network(nn.Module):
    """A module with typed settings that serves one kind of port. It knows no loss.

    Class attributes: `kind` (which port it serves), `settings_type` (its settings), `takes_points` (whether points of
    the plane are as good as images; of a network over another one, the inner one decides too).
    A network built over another one (a denoiser over its backbone) names in `inner` the settings that choose one, each
    a mapping `{name, ...}`; it gets the built networks as keyword arguments of these names.
    """

    kind: ClassVar[PortKind]
    settings_type: ClassVar[type[Settings]]
    inner: ClassVar[tuple[str, ...]] = ()
    takes_points: ClassVar[bool] = False

    @classmethod
    def inner_port(cls, key: str, settings: Settings, port: Port) -> Port:
        """What is asked of the inner network `key`."""
        raise LookupError(f"{cls.__name__} has no inner network {key!r}")

    def __init__(self, settings: Settings, port: Port) -> None:
        super().__init__()
        self.port = port


@runtime_checkable
class WithFeatures(Protocol):
    """A network of kind `image_to_vector` that lets others see what its last layer sees."""

    def features(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """(n, as many as there are)."""


@runtime_checkable
class WithStyles(Protocol):
    """A network of kind `latent_to_image` that maps its latent to a style, and makes the image of styles and noise.

    styles: how many an image is made of, from the coarsest to the finest. style_mean: (style_size,), over training.
    noise_shapes: of the noise that each layer adds to one image.
    """

    styles: int
    style_mean: Tensor
    noise_shapes: list[tuple[int, int, int]]

    def styled(self, latent: Tensor, labels: Tensor | None = None) -> Tensor:
        """(n, style_size)."""

    def synthesise(self, styles: Tensor, noise: Sequence[Tensor] | None = None) -> Tensor:
        """Images (n, c, h, w) of styles (n, styles, style_size) and of noise (n, *shape) for each of `noise_shapes`;
        None: the network's own."""


@dataclass
class Batch:
    """Real images of one turn: float (n, c, h, w) in [-1, 1], and labels (n,) int64 where the data has them.

    A turn's batch may be cut into `parts` of equal size, of which this is number `part`, from 0: it goes by these
    numbers, and not by the process that computes it, what is drawn for an image and what is remembered.
    """

    images: Tensor
    labels: Tensor | None = None
    part: int = 0
    parts: int = 1

    def __len__(self) -> int:
        return self.images.shape[0]


class TrainingData(ABC):
    """The training split as objectives may see it beyond one batch: in `prepare` and `finish`."""

    shape: ImageShape
    count: int
    classes: int

    @abstractmethod
    def chunks(self, size: int = 1024) -> Iterator[Batch]:
        """Every training image once, in a fixed order, in batches of at most `size`."""

    @abstractmethod
    def batch(self, turn: int, size: int) -> Batch:
        """Images `turn * size` to `(turn + 1) * size - 1` of an endless shuffled stream: the same ones whenever they
        are asked for, so that a run's position in the data is one number."""


@dataclass
class Player:
    """One set of parameters with its own optimizer and its turn: every `every`-th step (WGAN's generator: 5)."""

    name: str
    module: nn.Module
    every: int = 1


@dataclass
class Loss:
    """A scalar to minimise, and detached scalars to log beside it (tensors: reading them would stall the device).

    seen: detached scalars too, float32, which the objective goes by: it hears their mean over all parts of the batch.
    """

    value: Tensor
    logs: dict[str, Tensor] = field(default_factory=dict)
    seen: dict[str, Tensor] = field(default_factory=dict)


PART = "part."  # how names in `Objective.state` begin that belong to one part of every batch alone


def of_part(part: int) -> str:
    """How they begin for this part."""
    return f"{PART}{part}."


class Objective(ABC):
    """What teaches networks: its players and their losses. The loop calls the hooks; an objective calls no optimizer.

    Class attributes: `family` (for tables), `settings_type`; `trial_share`, the part of a training after which who is
    ahead is likely to be so at its end: the length of a search's trials; `in_steps`, settings that are numbers of
    training steps, of which a trial has as large a part as it has of the steps.
    """

    family: ClassVar[str]
    settings_type: ClassVar[type[Settings]]
    trial_share: ClassVar[float] = 0.2
    in_steps: ClassVar[tuple[str, ...]] = ()

    @classmethod
    @abstractmethod
    def ports(cls, settings: Settings, image: ImageShape, classes: int) -> dict[str, Port]:
        """The roles that networks play here, by name, and what is asked of each."""

    @classmethod
    @abstractmethod
    def exported_role(cls) -> str:
        """The role whose network draws images after training: what EMA follows, what is saved, what a sampler gets."""

    @classmethod
    def companions(cls) -> tuple[str, ...]:
        """Roles whose networks are kept beside the exported one, with EMA as it: what a density or an encoder of new
        images needs and drawing does not. An objective that has some sets `networks`."""
        return ()

    @abstractmethod
    def __init__(self, settings: Settings, networks: Mapping[str, Network]) -> None: ...

    players: list[Player]  # empty for what has a closed form: then `prepare` does all the work and no step is run
    exported: Network
    networks: Mapping[str, Network]  # by role, companions among them; not needed where there are none
    differentiates_gradients: bool = False  # a loss holds gradients, such as a penalty on slopes

    def kept(self) -> dict[str, Network]:
        """The networks that stay after training, by role: the exported one, then its companions."""
        return {self.exported_role(): self.exported, **{role: self.networks[role] for role in self.companions()}}

    def check_steps(self, steps: int) -> None:
        """Raises UserError where a training of so many steps could not do what the settings say. Called before any work
        is done."""
        return None

    def prepare(self, data: TrainingData) -> None:
        """Called before the first step: fit what has a closed form. Called again when a stopped run is resumed, before
        `load_state`."""
        return None

    @abstractmethod
    def loss(self, player: Player, batch: Batch) -> Loss:
        """The player's loss on its turn. Parameters of the other players are frozen by the loop meanwhile."""

    def hear(self, player: Player, seen: Mapping[str, Tensor]) -> None:
        """Called before `after_step` on turns whose losses have `seen` something, with the mean over all parts of the
        batch, those of other processes too: so that all processes go by the same numbers."""
        return None

    def after_step(self, player: Player) -> None:
        """Called after the player's optimizer has stepped (weight clipping)."""
        return None

    def examine(self, training: Batch, held_out: Batch) -> dict[str, Tensor]:
        """Scalars that tell how well the players do on images that they were not trained on, beside as many that they
        were. Logged with the losses; nothing that is trained may change by it, and randomness it may draw freely."""
        return {}

    def finish(self, data: TrainingData) -> None:
        """Called once after the last step, with EMA weights in all that is `kept`, in evaluation mode (an autoencoder
        fits its latent prior)."""
        return None

    def state(self) -> dict[str, Tensor]:
        """What changes from step to step and stands in no network: the strength of an augmentation, a replay buffer.

        It goes into every checkpoint, so that a run that was stopped ends with the same bits as one that was not. Any
        types and shapes, also such that change; the tensors themselves, not copies: they are written before the next
        step.

        What belongs to one part of every batch alone (`Batch.part`) has a name that begins with `of_part`: a checkpoint
        has that of all parts, wherever they are computed. All else is the same in every process that trains with this
        one.
        """
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave, of all parts, which may have been more or fewer than they are now. The tensors
        are on the CPU, and the objective's to keep."""
        if state:
            raise NotImplementedError(f"{type(self).__name__} has a `state` ({', '.join(state)}) and no `load_state`")


@dataclass(frozen=True)
class Draw:
    """A request for images: image i of a seed is the same image at any batch size and in any order.

    indices: which images of this seed, (n,) int64 on the CPU. labels: (n,) int64 or None.
    """

    seed: int
    indices: Tensor
    labels: Tensor | None = None

    def split(self, size: int) -> Iterator[Draw]:
        """The same request in pieces of at most `size` images."""
        for start in range(0, len(self.indices), size):
            labels = None if self.labels is None else self.labels[start : start + size]
            yield Draw(self.seed, self.indices[start : start + size], labels)


class Sampler(ABC):
    """Draws images from a trained network. `no_grad` belongs inside: energy sampling needs gradients.

    Class attributes: `kinds` (which kinds of network it can draw from), `settings_type`, `one_pass` (whether an image
    is one pass of the network, so that a thousand cost little).
    """

    kinds: ClassVar[tuple[str, ...]]
    settings_type: ClassVar[type[Settings]]
    one_pass: ClassVar[bool] = False

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @classmethod
    def suits(cls, port: Port) -> bool:
        """Whether it can draw from a network on this port."""
        return port.kind in cls.kinds

    def check(self, network: Network) -> None:
        """Raises UserError when these settings do not suit the network: asked before anything is trained."""
        return None

    @abstractmethod
    def sample(self, network: Network, draw: Draw) -> Tensor:
        """Images, float (n, c, h, w), nominally in [-1, 1], on the network's device."""


@dataclass(frozen=True)
class State:
    """Where sampling stands after a step from noise towards images.

    sigma: the noise level reached, 0 at the end. noisy: images at that level, (n, c, h, w). clean: the clean images
    that the step predicted, (n, c, h, w).
    """

    sigma: float
    noisy: Tensor
    clean: Tensor


@runtime_checkable
class WithTrajectory(Protocol):
    """A sampler that draws step by step and lets others see the way."""

    def trajectory(self, network: Network, draw: Draw) -> Iterator[State]:
        """Every state on the way, the last of them the images."""


@runtime_checkable
class WithLatents(Protocol):
    """A sampler whose images are a smooth function of what they begin as, so that one can walk between two of them."""

    def latents(self, network: Network, draw: Draw) -> Tensor:
        """What the images of this draw begin as, normal noise: (n, ...)."""

    def from_latents(self, network: Network, latents: Tensor, draw: Draw) -> Tensor:
        """The images (n, c, h, w) that begin as these; all else that is random is the draw's."""


class Density(ABC):
    """Tells how likely images are under a trained model, as a sampler draws from it. `no_grad` belongs inside.

    Class attributes: `kinds` (which kinds of exported network it can tell it of), `companions` (the roles that it asks
    for beside that one), `settings_type`.
    Attributes: `exact`, False where what it tells is a lower bound on the log-likelihood; `how`, words that stand
    beside each number, such as "importance-weighted bound, 64 samples" or "exact; uniform dequantisation, 1 draw";
    `normalised`, False where it tells the log-likelihood but for a constant that is the same for all images, so that
    images are compared by it and models are not.
    """

    kinds: ClassVar[tuple[str, ...]]
    companions: ClassVar[tuple[str, ...]] = ()
    settings_type: ClassVar[type[Settings]]
    exact: bool
    how: str
    normalised: bool = True

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @classmethod
    def suits(cls, port: Port) -> bool:
        """Whether it can tell likelihoods of an exported network on this port."""
        return port.kind in cls.kinds

    def check(self, network: Network) -> None:
        """Raises UserError when these settings do not suit the exported network: asked before anything is trained."""
        return None

    def of(self, networks: Mapping[str, Network]) -> str:
        """Of what the likelihood is told. Likelihoods of different things, such as 8-bit images and binarised ones, are
        never compared."""
        return POINTS if any(network.port.image.is_point for network in networks.values()) else EIGHT_BIT

    def how_of(self, image: ImageShape) -> str:
        """`how`, where it is not the same for images and for points."""
        return self.how

    @abstractmethod
    def log_likelihood(self, networks: Mapping[str, Network], images: Tensor, draw: Draw) -> Tensor:
        """Natural logarithm of the probability of each image, or a lower bound on it: (n,) float32 or float64, nats.

        Of 8-bit images the probability of the 8-bit image: how levels are made continuous is the density's own affair,
        and stated in `how`. Of points, the density in the coordinates in which networks see them.

        Args:
            networks: the exported one under its role and its companions under theirs, in evaluation mode.
            images: float (n, c, h, w) in [-1, 1], on the networks' device.
            draw: the seed of the density's own noise; indices (n,), so that an image has the same noise at any batch
                size; labels (n,) or None.
        """
