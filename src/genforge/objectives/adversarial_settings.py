"""What may be set about adversarial training: the loss, the turns, and what steadies the critic.

Every stabiliser is a number or a list that is off by default and goes with every other and with every loss, but for
what the validators and `check_critic` refuse, with the reason. Spectral normalisation is the critic network's own
setting; two time scales, `training.players`; the generator's average, `training.ema`.
"""

from __future__ import annotations

from pydantic import Field, ValidationInfo, field_validator
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from genforge.contracts import Network, WithFeatures, WithStyles
from genforge.networks.equalised import MinibatchDeviation
from genforge.networks.progressive import Growing
from genforge.objectives.adaptive_augmentation import GROUPS
from genforge.objectives.augmentation import AUGMENTATIONS
from genforge.objectives.gan_losses import LOSSES
from genforge.objectives.growth import GrowthSettings
from genforge.settings import Settings, UserError, nearest


class AdversarialSettings(Settings):
    loss: str = Field("hinge", description=f"what the players minimise: {', '.join(LOSSES)}")
    latent_size: int = Field(64, ge=1, le=4096, description="length of the generator's latent vector, standard normal")
    critic_steps: int = Field(1, ge=1, le=100, description="turns of the critic for each turn of the generator")
    conditional: bool = Field(False, description="give both players the labels")
    same_images: bool = Field(
        False,
        description="in its turn the generator learns from the images that it drew for the critic's turn of the step, "
        "as in pytorch/examples, dcgan/main.py: a pass of the generator less. false: each turn has images of its own "
        "(Goodfellow et al. 2014, Algorithm 1); so it is, too, where a batch is computed in parts, by accumulation or "
        "by several processes",
    )

    # Bounds on the critic's slope.
    weight_clip: float | None = Field(
        None,
        gt=0.0,
        description="the critic's weights are cut to this distance from zero after each of its turns (Arjovsky et al. "
        "2017: 0.01); null: not cut",
    )
    gradient_penalty: float = Field(
        0.0, ge=0.0, description="weight of the pull of slopes between real and fake images to 1 (Gulrajani 2017: 10)"
    )
    r1: float = Field(
        0.0, ge=0.0, description="weight of the pull of slopes at real images to 0 (gamma of Mescheder et al. 2018: 10)"
    )
    r2: float = Field(0.0, ge=0.0, description="the same at generated images")
    penalties_every: int = Field(
        1,
        ge=1,
        le=100,
        description="turns of the critic from one with these penalties to the next; they weigh as many times more then "
        "(lazy regularisation, Karras et al. 2020, StyleGAN2, section 3.1: 16)",
    )

    # What the critic is told, and shown.
    label_smoothing: float = Field(
        0.0,
        ge=0.0,
        lt=0.5,
        description="how far below 1 the target of real images is (Salimans et al. 2016, one-sided: 0.1)",
    )
    label_flipping: float = Field(
        0.0,
        ge=0.0,
        lt=0.5,
        description="share of pairs of a real and a fake image, drawn at random, that the critic is told the wrong way "
        "round",
    )
    instance_noise: float = Field(
        0.0,
        ge=0.0,
        description="standard deviation of noise on every image that the critic sees, at the start (Sønderby et al. "
        "2017); images are in [-1, 1]",
    )
    instance_noise_turns: int | None = Field(
        None, ge=1, description="turns of the critic over which that noise falls to 0 in a straight line; null: never"
    )
    augmentation: tuple[str, ...] = Field(
        (),
        description=f"random changes of every image that the critic sees, in this order: {', '.join(AUGMENTATIONS)} "
        f"(Zhao et al. 2020)",
    )

    adaptive_augmentation: tuple[str, ...] = Field(
        (),
        description=f"random changes of every image that the critic sees, with a probability that follows from how "
        f"sure it is of real ones: {', '.join(GROUPS)} (Karras et al. 2020, ADA: all of them)",
    )
    adaptive_target: float = Field(
        0.6,
        gt=-1.0,
        lt=1.0,
        description="how sure it may be: the share of real images that it takes for real less that of the others",
    )
    adaptive_images: int = Field(
        500_000, ge=1, description="images in which that probability could rise from 0 to 1: smaller is faster"
    )

    # What the generator is told beside its loss, and what its images are made of.
    feature_matching: float = Field(
        0.0,
        ge=0.0,
        description="weight of the squared distance between the critic's mean features of real and of fake images "
        "(Salimans et al. 2016), added to the generator's loss; means are over the images of one pass",
    )

    path_length: float = Field(
        0.0,
        ge=0.0,
        description="weight of the pull of how fast images change with the style to its mean (Karras et al. 2020, "
        "StyleGAN2: 2), of generators that have styles",
    )
    path_length_every: int = Field(
        8,
        ge=1,
        le=100,
        description="turns of the generator from one with that pull to the next; it weighs as many times more then",
    )
    style_mixing: float = Field(
        0.0,
        ge=0.0,
        le=1.0,
        description="share of generated images that are made of two styles (Karras et al. 2019: 0.9)",
    )
    growth: GrowthSettings | None = Field(
        None, description="begin with small images and double their sides step by step, of networks that can; null: not"
    )

    @field_validator("loss")
    @classmethod
    def _loss(cls, loss: str) -> str:
        if loss not in LOSSES:
            raise ValueError(f"one of {', '.join(LOSSES)}; {nearest(loss, list(LOSSES))}")
        return loss

    @field_validator("same_images")
    @classmethod
    def _same_images(cls, same: bool, info: ValidationInfo) -> bool:
        if same and info.data.get("critic_steps", 1) > 1:
            raise ValueError(
                f"false with critic_steps {info.data['critic_steps']}: of images for all these turns the generator "
                f"would use the last alone; set one of the two"
            )
        return same

    @field_validator("growth")
    @classmethod
    def _growth(cls, growth: GrowthSettings | None, info: ValidationInfo) -> GrowthSettings | None:
        if growth is not None and info.data.get("same_images"):
            raise ValueError(
                "null with same_images: networks grow after each turn of the critic, and the images that it saw are of "
                "the generator before that; set one of the two"
            )
        return growth

    @field_validator("gradient_penalty")
    @classmethod
    def _gradient_penalty(cls, weight: float, info: ValidationInfo) -> float:
        if weight and info.data.get("weight_clip") is not None:
            raise ValueError(
                "0 with weight_clip: clipped weights keep slopes far below the 1 that the penalty pulls them to; set "
                "one of the two"
            )
        return weight

    @field_validator("label_smoothing")
    @classmethod
    def _label_smoothing(cls, smoothing: float, info: ValidationInfo) -> float:
        loss = info.data.get("loss")
        if smoothing and loss in LOSSES and not LOSSES[loss].has_target:
            fitting = ", ".join(name for name, pair in LOSSES.items() if pair.has_target)
            raise ValueError(f"0 with loss {loss}, which gives real images no target to soften; these do: {fitting}")
        return smoothing

    @field_validator("instance_noise_turns")
    @classmethod
    def _instance_noise_turns(cls, turns: int | None, info: ValidationInfo) -> int | None:
        if turns is not None and info.data.get("instance_noise") == 0:
            raise ValueError("null without instance_noise: there is no noise to fall")
        return turns

    @field_validator("augmentation")
    @classmethod
    def _augmentation(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in AUGMENTATIONS:
                raise ValueError(f"of {', '.join(AUGMENTATIONS)}; {nearest(name, list(AUGMENTATIONS))}")
        return names

    @field_validator("adaptive_augmentation")
    @classmethod
    def _adaptive_augmentation(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        for name in names:
            if name not in GROUPS:
                raise ValueError(f"of {', '.join(GROUPS)}; {nearest(name, list(GROUPS))}")
        loss = info.data.get("loss")
        if names and loss in LOSSES and LOSSES[loss].boundary is None:
            fitting = ", ".join(name for name, pair in LOSSES.items() if pair.boundary is not None)
            raise ValueError(
                f"empty with loss {loss}, whose critic compares images and calls none of them real by itself, so that "
                f"nobody can say how sure it is; these do: {fitting}"
            )
        return names

    @property
    def slope_penalties(self) -> dict[str, float]:
        """Weights of the penalties that differentiate the critic by its images, of those that are on."""
        weights = {"gradient_penalty": self.gradient_penalty, "r1": self.r1, "r2": self.r2}
        return {name: weight for name, weight in weights.items() if weight}

    @property
    def counts_critic_turns(self) -> bool:
        """Whether anything depends on how many turns the critic has had."""
        lazy = self.penalties_every > 1 and bool(self.slope_penalties)
        return lazy or self.instance_noise_turns is not None or self.growth is not None


def check_critic(settings: AdversarialSettings, critic: Network) -> None:
    """Raises UserError when a setting asks of the critic what it cannot give."""
    spectral = any(is_parametrized(layer) for layer in critic.modules())
    bounded = spectral or settings.weight_clip is not None or settings.slope_penalties
    if LOSSES[settings.loss].needs_bound and not bounded:
        raise UserError(
            f"objective.loss {settings.loss} has no least value for a critic whose slopes nothing bounds: it would run "
            f"away; set objective.weight_clip, gradient_penalty, r1 or r2, or networks.critic.spectral_norm"
        )
    if settings.weight_clip is not None and spectral:
        raise UserError(
            f"objective.weight_clip is {settings.weight_clip}, but networks.critic.spectral_norm divides every weight "
            f"by its size, so that clipping changes nothing of the kind; set one of the two"
        )
    if settings.slope_penalties and normalises_batches(critic):
        names = ", ".join(settings.slope_penalties)
        raise UserError(
            f"objective.{names}: not with batch normalisation in the critic, where an image's output depends on its "
            f"whole batch and so has no slope of its own (Gulrajani et al. 2017, section 4); set "
            f"networks.critic.normalisation to group or none"
        )
    if settings.feature_matching and not isinstance(critic, WithFeatures):
        raise UserError(
            f"objective.feature_matching is {settings.feature_matching}, but {type(critic).__name__} has no `features` "
            f"to match; set it to 0 or take another critic"
        )


def check_generator(settings: AdversarialSettings, generator: Network, critic: Network) -> None:
    """Raises UserError when a setting asks of the generator, or of both networks, what they cannot give."""
    for name in ("path_length", "style_mixing"):
        if getattr(settings, name) and not isinstance(generator, WithStyles):
            raise UserError(
                f"objective.{name} is {getattr(settings, name):g}, but {type(generator).__module__} has no styles; set "
                f"it to 0, or networks.generator.name to style-generator"
            )
    if settings.growth is not None:
        for role, network in (("generator", generator), ("critic", critic)):
            if not isinstance(network, Growing):
                raise UserError(
                    f"objective.growth is set, but {type(network).__module__} cannot grow; set it to null, or "
                    f"networks.{role}.name to progressive-{role}"
                )


def normalises_batches(critic: Network) -> bool:
    """Whether an image's output depends on the other images of its batch through normalisation."""
    return any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in critic.modules())


def looks_across(critic: Network) -> bool:
    """Whether an image's output depends on the other images of its pass in any way."""
    return normalises_batches(critic) or any(isinstance(layer, MinibatchDeviation) for layer in critic.modules())
