"""The table of contents: every name that a recipe may use, and how a recipe becomes objects.

Adding a network, an objective, a sampler or a density takes its file, its line here and a recipe that uses it; it
inherits the contract tests, which run over these tables. Targets are `module:class`, imported when first used: to read
a recipe that has been resolved does not import torch's world.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from pydantic import Field, field_validator

from genforge.dimension import Dimension
from genforge.files import read_yaml
from genforge.imports import code_digest
from genforge.settings import Settings, UserError, nearest
from genforge.shapes import POINT, SMALLEST, ImageShape, Port

if TYPE_CHECKING:
    from genforge.contracts import Density, Network, Objective, Sampler

NETWORKS: dict[str, str] = {
    "dcgan-generator": "genforge.networks.dcgan:Generator",
    "dcgan-critic": "genforge.networks.dcgan:Critic",
    "mlp-generator": "genforge.networks.mlp:Generator",
    "mlp-critic": "genforge.networks.mlp:Critic",
    "resnet-generator": "genforge.networks.resnet:Generator",
    "resnet-critic": "genforge.networks.resnet:Critic",
    "style-generator": "genforge.networks.style:Generator",
    "style-critic": "genforge.networks.style:Critic",
    "progressive-generator": "genforge.networks.progressive:Generator",
    "progressive-critic": "genforge.networks.progressive:Critic",
    "unet": "genforge.networks.unet:UNet",
    "mlp-backbone": "genforge.networks.mlp_backbone:MLPBackbone",
    "energy": "genforge.networks.energy:Energy",
    "realnvp": "genforge.networks.realnvp:RealNVP",
    "realnvp-mlp": "genforge.networks.realnvp_mlp:RealNVPMLP",
    "ddpm-denoiser": "genforge.networks.ddpm:DDPMDenoiser",
    "edm-denoiser": "genforge.networks.edm:EDMDenoiser",
    "flow-matching-denoiser": "genforge.networks.flow_matching:FlowMatchingDenoiser",
    "pixelcnn": "genforge.networks.pixelcnn:PixelCNN",
    "pixel-transformer": "genforge.networks.pixel_transformer:PixelTransformer",
    "autoguided-denoiser": "genforge.networks.autoguided:Autoguided",
    "box": "genforge.networks.baselines:Box",
    "gaussian": "genforge.networks.baselines:Gaussian",
    "mixture": "genforge.networks.baselines:Mixture",
    "latent-prior": "genforge.networks.latent_prior:LatentPrior",
    "gaussian-pixels": "genforge.networks.pixels:GaussianPixels",
    "logistic-pixels": "genforge.networks.pixels:LogisticPixels",
    "bernoulli-pixels": "genforge.networks.pixels:BernoulliPixels",
    "kernel-density": "genforge.networks.kernel_density:KernelDensity",
}
OBJECTIVES: dict[str, str] = {
    "adversarial": "genforge.objectives.adversarial:Adversarial",
    "autoencoding": "genforge.objectives.autoencoding:Autoencoding",
    "variational": "genforge.objectives.variational:Variational",
    "denoising": "genforge.objectives.denoising:Denoising",
    "flow": "genforge.objectives.flow:FlowLikelihood",
    "autoregressive": "genforge.objectives.autoregressive:Autoregressive",
    "consistency": "genforge.objectives.consistency:Consistency",
    "contrastive-divergence": "genforge.objectives.energy:ContrastiveDivergence",
    "closed-form": "genforge.objectives.likelihood:ClosedForm",
}
SAMPLERS: dict[str, str] = {
    "one-shot": "genforge.samplers.one_shot:OneShot",
    "style": "genforge.samplers.style:Style",
    "ddpm": "genforge.samplers.ddpm:DDPM",
    "ddim": "genforge.samplers.ddim:DDIM",
    "euler": "genforge.samplers.euler:Euler",
    "heun": "genforge.samplers.heun:Heun",
    "langevin": "genforge.samplers.langevin:Langevin",
    "dpm-solver": "genforge.samplers.dpm_solver:DPMSolver",
    "pixelwise": "genforge.samplers.pixelwise:Pixelwise",
    "consistency": "genforge.samplers.consistency:Consistency",
}
DENSITIES: dict[str, str] = {
    "importance-weighted": "genforge.densities.importance_weighted:ImportanceWeighted",
    "flow": "genforge.densities.flow:FlowDensity",
    "energy": "genforge.densities.energy:EnergyDensity",
    "closed-form": "genforge.densities.closed_form:ClosedFormDensity",
    "pixelwise": "genforge.densities.pixelwise:PixelwiseDensity",
    "probability-flow": "genforge.densities.probability_flow:ProbabilityFlow",
}
GATES: dict[str, str] = {
    "finite": "genforge.evaluation.gates.finite:Finite",
    "better": "genforge.evaluation.gates.better:Better",
    "coverage": "genforge.evaluation.gates.coverage:CoverageNotWorse",
    "no-copies": "genforge.evaluation.gates.copies:NoCopies",
    "harm": "genforge.evaluation.gates.harmless:Harmless",
    "class-balance": "genforge.evaluation.gates.balance:ClassBalance",
    "speed": "genforge.evaluation.gates.speed:Speed",
    "size": "genforge.evaluation.gates.size:Size",
    "draws-alone": "genforge.evaluation.gates.alone:DrawsAlone",
}
LIBRARY = Path(__file__).parent / "recipes"
TURNABLE = ("networks", "objective", "sampler", "training")  # parts of a recipe that a search may turn settings of
OF_EVERY_TRIAL: dict[str, Any] = {  # and of no whole training
    # Settings that fail are to be known as such, and not by the value of half of them.
    "training.rollbacks": 0,
    "training.averages.choose": None,
    "training.averages.snapshots": 0,
}
NOT_SEARCHED = ("training.steps", "training.checkpoint_every", *OF_EVERY_TRIAL)


class RecipeSearch(Settings):
    """Which settings a search may turn: dotted keys of the recipe to a range or a list of choices."""

    space: dict[str, Dimension] = Field(
        default_factory=dict, description="a key set to null is taken out of the space that the library's recipe has"
    )
    portfolio: tuple[dict[str, bool | int | float | str], ...] = Field(
        (),
        description="settings that did well on other data, best first: a search tries them right after the recipe's "
        "own, which stand for all that an entry leaves out; []: none",
    )

    @field_validator("space", mode="before")
    @classmethod
    def _without_null(cls, space: Any) -> Any:
        if not isinstance(space, Mapping):
            return space
        return {key: dimension for key, dimension in space.items() if dimension is not None}


class Recipe(Settings):
    """A network, an objective and a sampler named together, with settings, budget and search space; and a density,
    where the likelihood of images can be told."""

    origin: str = Field(description="the library's recipe that this one started from")
    description: str
    source: str = Field(description="the paper or code that it follows")
    networks: dict[str, dict[str, Any]]
    objective: dict[str, Any]
    sampler: dict[str, Any]
    density: dict[str, Any] | None = Field(None, description="what tells likelihoods; null: nothing does")
    training: dict[str, Any] = Field(default_factory=dict)
    search: RecipeSearch = RecipeSearch()

    @property
    def family(self) -> str:
        return target("objective", self.objective["name"]).family

    @property
    def trial_share(self) -> float:
        return target("objective", self.objective["name"]).trial_share

    def shortened(self, steps: int) -> dict[str, Any]:
        """Dotted settings of a training that has so many steps in place of the recipe's: `training.steps`, and what
        else is counted in steps, as large a part of the whole."""
        whole = self.training["steps"]
        counted = {key: self.objective[key] for key in target("objective", self.objective["name"]).in_steps}
        parts = {
            f"objective.{key}": max(1, value * steps // whole) for key, value in counted.items() if value is not None
        }
        return {"training.steps": steps, **parts}

    def training_modules(self) -> list[str]:
        """Modules whose code decides what weights this recipe gives: no sampler's."""
        names = [OBJECTIVES[self.objective["name"]]]
        names += [NETWORKS[name] for choice in self.networks.values() for name in _network_names(choice)]
        return sorted({name.partition(":")[0] for name in names} | {"genforge.training.loop"})

    def modules(self) -> list[str]:
        """Modules whose code decides what this recipe gives, for its digest. Not what is told of it: no density's."""
        return sorted({*self.training_modules(), SAMPLERS[self.sampler["name"]].partition(":")[0]})

    def code_digest(self) -> str:
        return code_digest(self.modules())


@dataclass(frozen=True)
class Exported:
    """What is needed to build a trained network again: its choice with settings, its port, and its sampler."""

    network: dict[str, Any]
    port: Port
    sampler: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        port = {**vars(self.port), "image": vars(self.port.image)}
        return {"network": self.network, "port": port, "sampler": self.sampler}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Exported:
        port = Port(**{**value["port"], "image": ImageShape(**value["port"]["image"])})
        return cls(dict(value["network"]), port, dict(value["sampler"]))

    def build(self) -> tuple[Network, Sampler]:
        return build_network(self.network, self.port, "network"), build_sampler(self.sampler, "sampler")

    def modules(self) -> list[str]:
        """Modules that drawing images needs: no objective and no loop."""
        names = [SAMPLERS[self.sampler["name"]], *(NETWORKS[name] for name in _network_names(self.network))]
        return sorted({name.partition(":")[0] for name in names})


def beside(recipe: Recipe, image: ImageShape, classes: int) -> dict[str, Any]:
    """What model.json says beside `exported`: the role of the exported network, its companions, and the density."""
    kind, settings = _objective(recipe)
    ports = kind.ports(settings, image, classes)
    companions = {
        role: {"network": recipe.networks[role], "port": {**vars(ports[role]), "image": vars(image)}}
        for role in kind.companions()
    }
    return {"role": kind.exported_role(), "companions": companions, "density": recipe.density}


def target(table: str, name: str, where: str = "") -> Any:
    """The class behind a name. Raises UserError with the nearest name when there is none."""
    entries = {
        "network": NETWORKS,
        "objective": OBJECTIVES,
        "sampler": SAMPLERS,
        "density": DENSITIES,
        "gate": GATES,
    }[table]
    if name not in entries:
        place = f"{where}{'' if table == 'gate' else '.name'}: " if where else ""
        raise UserError(f"{place}no {table} is called {name!r}; {nearest(str(name), sorted(entries))}")
    module, _, attribute = entries[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def library() -> list[str]:
    """Names of the library's recipes, sorted."""
    return sorted(path.stem for path in LIBRARY.glob("*.yaml"))


def read_library(name: str, where: str = "from") -> dict[str, Any]:
    """The library's recipe of this name, as plain values."""
    if name not in library():
        raise UserError(f"{where}: no recipe is called {name!r}; {nearest(name, library())}")
    return read_yaml(LIBRARY / f"{name}.yaml")


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the keys of `over` laid over it, mapping by mapping. A part that names another part (`name`) starts
    afresh, since the settings of one network mean nothing to another; so does a range in place of `choices`, and the
    other way round."""
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            other_kind = ("choices" in value) != ("choices" in below)
            result[key] = dict(value) if _is_another(below, value) or other_kind else merge(below, value)
        else:
            result[key] = value
    return result


def resolve(name: str, entry: Mapping[str, Any], points: bool = False) -> Recipe:
    """The recipe that an entry of `params.yaml` means: the library's with the entry's overrides, every setting checked
    and every default filled in.

    Args:
        points: whether the data are points of the plane, which not every network takes.

    Raises:
        UserError: with the dotted key, the value, the rule and the nearest valid name.
    """
    where = f"recipes.{name}"
    base = read_library(str(entry["from"]), f"{where}.from")
    over = {key: value for key, value in entry.items() if key != "from"}
    values = merge(_without_turning(base, over), over)
    recipe = _filled(Recipe.read({"origin": entry["from"], **values}, where), where)
    if "portfolio" not in (over.get("search") or {}):
        recipe = _with_fitting_portfolio(recipe)
    _check_built(recipe, where, points)
    _check_space(recipe, where)
    _check_portfolio(recipe, where)
    return recipe


def _without_turning(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """The library's recipe, whose search does not turn what the entry itself states, a value that somebody chose, nor
    the settings of a part in whose place the entry puts another."""
    stated = {key: value for key, value in over.items() if key != "search"}
    chosen, replaced = set(_leaves(stated)), tuple(_replaced(base, stated))
    search = dict(base.get("search") or {})
    search["space"] = {
        key: turn
        for key, turn in (search.get("space") or {}).items()
        if key not in chosen and not key.startswith(replaced)
    }
    return {**base, "search": search}


def _with_fitting_portfolio(recipe: Recipe) -> Recipe:
    """The library's portfolio in a space that somebody changed: values that it no longer has are left out."""
    space = recipe.search.space
    entries = (
        {key: value for key, value in entry.items() if key in space and space[key].holds(value)}
        for entry in recipe.search.portfolio
    )
    search = recipe.search.model_copy(update={"portfolio": tuple(entry for entry in entries if entry)})
    return recipe.model_copy(update={"search": search})


def _is_another(below: Mapping[str, Any], value: Mapping[str, Any]) -> bool:
    """Whether `value` names another part than `below` is."""
    return "name" in value and value["name"] != below.get("name", value["name"])


def _replaced(base: Mapping[str, Any], over: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """What the dotted keys of the parts begin with that `over` puts others in place of."""
    for key, value in over.items():
        below = base.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            if _is_another(below, value):
                yield f"{prefix}{key}."
            else:
                yield from _replaced(below, value, f"{prefix}{key}.")


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Dotted keys of everything in `values` that is no mapping."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _filled(recipe: Recipe, where: str) -> Recipe:
    """The recipe with every setting checked and every default filled in."""
    objective = _fill("objective", recipe.objective, f"{where}.objective")
    _ports(recipe, where)  # a role that is none is told as that, before what its network lacks
    filled = {
        "networks": {
            role: _fill_network(choice, f"{where}.networks.{role}") for role, choice in recipe.networks.items()
        },
        "objective": objective,
        "sampler": _fill("sampler", recipe.sampler, f"{where}.sampler"),
        "density": recipe.density and _fill("density", recipe.density, f"{where}.density"),
        "training": _training_settings(recipe.training, f"{where}.training"),
    }
    recipe = recipe.model_copy(update=filled)
    _check_fit(recipe, where)
    return recipe


def resolve_all(entries: Mapping[str, Mapping[str, Any]], points: bool = False) -> dict[str, Recipe]:
    """`resolve` over all entries, with every mistake told at once."""
    recipes, mistakes = {}, []
    for name, entry in entries.items():
        try:
            recipes[name] = resolve(name, entry, points)
        except UserError as error:
            mistakes.append(str(error))
    if mistakes:
        raise UserError("\n".join(mistakes))
    return recipes


def build_gates(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The gates of `params.yaml` by their names there, each a `Gate` with its settings. An entry is of the kind that
    its `check` says, or its own name where it says none.

    Raises:
        UserError: names every wrong key of every gate.
    """
    gates, mistakes = {}, []
    for name, entry in entries.items():
        where = f"gates.{name}"
        check = str(entry.get("check", name))
        try:
            kind = target("gate", check, where if check == name else f"{where}.check")
            settings = {key: value for key, value in entry.items() if key != "check"}
            gates[name] = kind(kind.settings_type.read(settings, where), where)
        except UserError as error:
            mistakes.append(str(error))
    if mistakes:
        raise UserError("\n".join(mistakes))
    return gates


def with_settings(recipe: Recipe, settings: Mapping[str, Any], where: str = "search") -> Recipe:
    """The recipe with dotted keys set, such as `training.optimizer.learning_rate`, checked again."""
    values = recipe.model_dump()
    for key, value in settings.items():
        holder, leaf = lookup({part: values[part] for part in TURNABLE}, key, where)
        holder[leaf] = value
    return _filled(Recipe.read(values, where), where)


def lookup(values: dict[str, Any], key: str, where: str) -> tuple[dict[str, Any], str]:
    """The mapping that holds the dotted `key` of a filled-in recipe, and the key's last part."""
    *path, leaf = key.split(".")
    holder: Any = values
    for part in [*path, leaf]:
        if not isinstance(holder, dict) or part not in holder:
            valid = sorted(map(str, holder)) if isinstance(holder, dict) else []
            raise UserError(f"{where}: {key!r} is no setting of this recipe (at {part!r}); {nearest(part, valid)}")
        inside, holder = holder, holder[part]
    return inside, leaf


def build_network(choice: Mapping[str, Any], port: Port, where: str) -> Network:
    """The network of a choice `{name, ...settings}` on a port; inner networks (`backbone`) are built first."""
    kind = _of_kind(choice["name"], port, where)
    if port.image.is_point and not kind.takes_points:
        fitting = [
            name for name in NETWORKS if (other := target("network", name)).kind == port.kind and other.takes_points
        ]
        raise UserError(
            f"{where}.name: {choice['name']!r} takes images, but the data are points of the plane (data.source); these "
            f"take points: {', '.join(fitting) or 'none'}"
        )
    settings = kind.settings_type.read(_without_name(choice), where)
    inner = {
        key: build_network(getattr(settings, key), kind.inner_port(key, settings, port), f"{where}.{key}")
        for key in getattr(kind, "inner", ())
    }
    return cast("Network", kind(settings, port, **inner))


def _of_kind(name: str, port: Port, where: str) -> Any:
    """The class of the network of this name. Raises UserError where it does not fit the port."""
    kind = target("network", name, where)
    if kind.kind != port.kind:
        fitting = sorted(other for other in NETWORKS if target("network", other).kind == port.kind)
        raise UserError(
            f"{where}.name: {name!r} is of kind {kind.kind}, but the role takes {port.kind}: {', '.join(fitting)}"
        )
    return kind


def build_objective(recipe: Recipe, image: ImageShape, classes: int) -> Objective:
    """The objective with its networks, on the CPU, with weights drawn from torch's generator."""
    kind, settings = _objective(recipe)
    ports = kind.ports(settings, image, classes)
    networks = {role: build_network(recipe.networks[role], port, f"networks.{role}") for role, port in ports.items()}
    return cast("Objective", kind(settings, networks))


def exported(recipe: Recipe, image: ImageShape, classes: int) -> Exported:
    """How the network that this recipe trains is built again, without its objective."""
    kind, settings = _objective(recipe)
    role = kind.exported_role()
    return Exported(recipe.networks[role], kind.ports(settings, image, classes)[role], recipe.sampler)


def build_sampler(choice: Mapping[str, Any], where: str = "sampler") -> Sampler:
    kind = target("sampler", choice["name"], where)
    return cast("Sampler", kind(kind.settings_type.read(_without_name(choice), where)))


Told = Literal["sampler", "density"]  # parts that ask something of a trained network


def suited(table: Told, port: Port) -> list[str]:
    """Names of the samplers that can draw from a network on this port, or of the densities that can tell its
    likelihoods, as the table has them."""
    return [name for name in {"sampler": SAMPLERS, "density": DENSITIES}[table] if target(table, name).suits(port)]


def check_suits(table: Told, name: str, port: Port, where: str) -> None:
    """Raises UserError unless the sampler or density of this name suits a network on this port."""
    if not target(table, name).suits(port):
        what = {"sampler": "draw from", "density": "tell likelihoods of"}[table]
        able = ", ".join(suited(table, port)) or "none"
        raise UserError(f"{where}: {name!r} cannot {what} a {port.description}; these can: {able}")


def build_density(choice: Mapping[str, Any], where: str = "density") -> Density:
    kind = target("density", choice["name"], where)
    return cast("Density", kind(kind.settings_type.read(_without_name(choice), where)))


def _without_name(choice: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in choice.items() if key != "name"}


def _objective(recipe: Recipe, where: str = "objective") -> tuple[Any, Settings]:
    """The class of the recipe's objective, and its settings."""
    kind = target("objective", recipe.objective["name"])
    return kind, kind.settings_type.read(_without_name(recipe.objective), where)


def _named(choice: Mapping[str, Any], table: str, where: str) -> Any:
    if not isinstance(choice, Mapping) or not isinstance(choice.get("name"), str):
        raise UserError(f"{where}: should be a mapping with a `name` of a {table}, not {choice!r}")
    return target(table, choice["name"], where)


def _fill(table: str, choice: Mapping[str, Any], where: str) -> dict[str, Any]:
    kind = _named(choice, table, where)
    return {"name": choice["name"], **kind.settings_type.read(_without_name(choice), where).model_dump(mode="json")}


def _fill_network(choice: Mapping[str, Any], where: str) -> dict[str, Any]:
    filled = _fill("network", choice, where)
    for key in getattr(target("network", choice["name"]), "inner", ()):
        filled[key] = _fill_network(filled[key], f"{where}.{key}")
    return filled


def _network_names(choice: Mapping[str, Any]) -> list[str]:
    """Of a network and of those within it: told by their names, for to ask its class for `inner` imports torch."""
    inner = [value for value in choice.values() if isinstance(value, Mapping) and value.get("name") in NETWORKS]
    return [choice["name"], *(name for value in inner for name in _network_names(value))]


def _training_settings(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    from genforge.training.settings import TrainingSettings

    return TrainingSettings.read(values, where).model_dump(mode="json")


def _ports(recipe: Recipe, where: str) -> dict[str, Port]:
    """The roles that the recipe's objective has to give, and what each takes and gives, for images of a common size.

    Raises:
        UserError: the recipe names a role that there is not.
    """
    kind, settings = _objective(recipe, f"{where}.objective")
    ports: dict[str, Port] = kind.ports(settings, ImageShape(1, 32, 32), 0)
    for role in recipe.networks:
        if role not in ports:
            raise UserError(f"{where}.networks.{role}: unknown role; {nearest(role, sorted(ports))}")
    return ports


def _check_fit(recipe: Recipe, where: str) -> None:
    """Roles are all played, by networks of the right kind; the sampler can draw from the exported one, and the density,
    where there is one, can tell likelihoods of it."""
    kind, ports = target("objective", recipe.objective["name"]), _ports(recipe, where)
    for role, port in ports.items():
        if role not in recipe.networks:
            raise UserError(f"{where}.networks.{role}: missing; objective {recipe.objective['name']!r} needs this role")
        _of_kind(recipe.networks[role]["name"], port, f"{where}.networks.{role}")
    port_out = ports[kind.exported_role()]
    check_suits("sampler", recipe.sampler["name"], port_out, f"{where}.sampler.name")
    if recipe.density is not None:
        check_suits("density", recipe.density["name"], port_out, f"{where}.density.name")
        density = target("density", recipe.density["name"])
        if missing := [role for role in density.companions if role not in kind.companions()]:
            raise UserError(
                f"{where}.density.name: {recipe.density['name']!r} asks for {' and '.join(missing)} beside the network "
                f"that draws, which objective {recipe.objective['name']!r} does not keep; leave `density` out, or "
                f"choose another"
            )


def _check_built(recipe: Recipe, where: str, points: bool) -> None:
    """Everything is built once, for the smallest images and for larger ones, for which some networks have layers that
    they else have not; or for points. What the parts have to say about each other (an inner network, a player's name, a
    sampler's steps) is said before any work."""
    import torch  # as the networks that are built here do

    shapes = [POINT] if points else [ImageShape(1, side, side) for side in (2 * SMALLEST, SMALLEST)]
    try:
        with torch.random.fork_rng(devices=[]):  # the weights drawn here are thrown away
            for shape in shapes:
                objective = build_objective(recipe, shape, classes=2)
            build_sampler(recipe.sampler).check(objective.exported)
            if recipe.density is not None:
                build_density(recipe.density).check(objective.exported)
            objective.check_steps(recipe.training["steps"])
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    names = [player.name for player in objective.players]
    for name in recipe.training["players"]:
        if name not in names:
            raise UserError(f"{where}.training.players.{name}: this recipe has no such player; {nearest(name, names)}")
    for player in objective.players:
        if not any(True for _ in player.module.parameters()):
            raise UserError(f"{where}.networks: player `{player.name}` has no weights, so that it cannot learn")


def _check_space(recipe: Recipe, where: str) -> None:
    """A search may turn settings that there are, to values that they may have."""
    values = recipe.model_dump()
    for key, dimension in recipe.search.space.items():
        place = f"{where}.search.space"
        holder, leaf = lookup({part: values[part] for part in TURNABLE}, key, place)
        if isinstance(holder[leaf], dict):
            raise UserError(f"{place}: {key!r} is a whole part of the recipe; a search turns single settings")
        if key in NOT_SEARCHED:
            raise UserError(
                f"{place}: {key!r} is the same in every trial (its length is search.steps_share's), so that no search "
                f"can tell which value is better; take it out, and give it in {where}"
            )
        for value in dimension.examples():
            try:
                with_settings(recipe, {key: value}, where)
            except UserError as error:
                raise UserError(f"{place}.{key}: the search could try {value!r}, but {error}") from None


def _check_portfolio(recipe: Recipe, where: str) -> None:
    """Values of the search's space, each."""
    for number, entry in enumerate(recipe.search.portfolio):
        for key, value in entry.items():
            place = f"{where}.search.portfolio.{number}"
            if key not in recipe.search.space:
                raise UserError(
                    f"{place}: {key!r} is not in the search's space; {nearest(key, list(recipe.search.space))}"
                )
            if not recipe.search.space[key].holds(value):
                raise UserError(f"{place}.{key}: {value!r} is not {recipe.search.space[key].rule()}")
