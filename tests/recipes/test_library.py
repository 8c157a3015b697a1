"""Every recipe of the library is what the rooms promise. A newcomer inherits these by its file."""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from genforge import catalog
from genforge.catalog import OBJECTIVES, Exported, Recipe, lookup
from genforge.contracts import Draw, ImageShape, Network, Objective
from genforge.settings import UserError
from tests.networks.network_cases import Images, moments, some_pixels

LIBRARY = catalog.library()
CLASSES = 3
SHAPES = [ImageShape(1, 8, 8), ImageShape(3, 12, 12), ImageShape(1, 28, 28)]


def resolve(name: str, **over: Any) -> Recipe:
    return catalog.resolve("test", {"from": name, **over}) if over else as_it_is(name)


@functools.cache
def as_it_is(name: str) -> Recipe:
    return catalog.resolve("test", {"from": name})


def quick(recipe: Recipe) -> Recipe:
    """The same recipe with few steps of its sampler and of its density: what is promised of images does not hang on how
    many they are."""
    return recipe.model_copy(update={"sampler": few(recipe.sampler, 4), "density": few(recipe.density, 3)})


def few(choice: dict[str, Any] | None, most: int) -> dict[str, Any] | None:
    """A choice that takes at most so many steps, or samples."""
    counted = {key: min(value, most) for key, value in (choice or {}).items() if key in ("steps", "samples")}
    return choice if choice is None else {**choice, **counted}


def labelled_pixels(image: ImageShape) -> Images:
    return some_pixels(image, classes=CLASSES)


def request(network: Network, seed: int, indices: Tensor) -> Draw:
    return Draw(seed, indices, indices % CLASSES if network.port.classes else None)


def build(recipe: Recipe, image: ImageShape) -> Objective:
    torch.manual_seed(0)
    objective = catalog.build_objective(recipe, image, CLASSES)
    for player in objective.players:
        player.module.train()
        with torch.no_grad():
            for weight in player.module.parameters():
                weight.add_(0.02 * torch.randn_like(weight))  # so that nothing hides behind a layer that begins at zero
    return objective


@pytest.mark.parametrize("name", LIBRARY)
def test_resolves_and_says_what_it_is(name: str) -> None:
    recipe = resolve(name)
    assert recipe.origin == name
    assert "\n" not in recipe.description.strip()
    assert recipe.source
    assert recipe.family
    assert Recipe.read(recipe.model_dump(mode="json"), "test") == recipe


@pytest.mark.parametrize("name", LIBRARY)
def test_the_search_space_holds_the_recipe_s_own_settings(name: str) -> None:
    recipe = resolve(name)
    for key, dimension in recipe.search.space.items():
        holder, leaf = lookup(recipe.model_dump(mode="json"), key, "test")
        if dimension.choices is not None:
            assert holder[leaf] in dimension.choices, key
            tried: tuple[Any, ...] = dimension.choices
        else:
            assert dimension.low is not None and dimension.high is not None
            assert dimension.low <= holder[leaf] <= dimension.high, key
            tried = (dimension.low, dimension.high)
        for value in tried:
            catalog.with_settings(recipe, {key: value})  # raises if the recipe would refuse it


@pytest.mark.parametrize("image", SHAPES, ids=str)
@pytest.mark.parametrize("name", LIBRARY)
def test_every_turn_teaches_its_player_and_no_other(name: str, image: ImageShape) -> None:
    objective, data = build(resolve(name), image), labelled_pixels(image)
    objective.prepare(data)
    for player in objective.players:
        others = [other for other in objective.players if other is not player]
        for weight in (weight for other in others for weight in other.module.parameters()):
            weight.requires_grad_(False)
            weight.grad = None
        for _ in moments(*(other.module for other in objective.players if isinstance(other.module, Network))):
            loss = objective.loss(player, data.batch(0, 8))
            assert loss.value.shape == ()
            assert torch.isfinite(loss.value)
            assert loss.logs
            assert all(value.shape == () and not value.requires_grad for value in loss.logs.values())
            loss.value.backward()
        for key, weight in player.module.named_parameters():
            assert weight.grad is not None, f"{player.name}: {key}"
            assert torch.isfinite(weight.grad).all(), f"{player.name}: {key}"
            if weight.dim() > 1:  # a bias before batch normalisation has no effect, and so no gradient
                assert weight.grad.abs().sum() > 0, f"{player.name}: {key}"
        for weight in (weight for other in others for weight in other.module.parameters()):
            assert weight.grad is None
            weight.requires_grad_(True)


@pytest.mark.parametrize("name", LIBRARY)
def test_state_outside_of_networks_is_taken_over(name: str) -> None:
    """That it holds all that training depends on is shown in tests/training/test_resume.py."""
    image = ImageShape(1, 8, 8)
    first, second, data = build(resolve(name), image), build(resolve(name), image), labelled_pixels(image)
    first.prepare(data)
    for turn in range(3):
        for player in first.players:
            first.loss(player, data.batch(turn, 8))
    kept = safetensors.torch.load(safetensors.torch.save(first.state()))
    second.load_state(kept)
    taken = second.state()
    assert taken.keys() == kept.keys()
    assert all(torch.equal(taken[key].cpu(), kept[key]) for key in kept)


@pytest.mark.parametrize("name", LIBRARY)
def test_bfloat16_makes_a_finite_float32_loss(name: str) -> None:
    image = ImageShape(1, 8, 8)
    objective, data = build(resolve(name), image), labelled_pixels(image)
    for player in objective.players:
        with torch.autocast("cpu", torch.bfloat16):
            loss = objective.loss(player, data.batch(0, 8))
        assert loss.value.dtype == torch.float32
        assert math.isfinite(loss.value.item())


@pytest.mark.parametrize("name", LIBRARY)
def test_a_seed_s_image_is_the_same_at_any_batch_size(name: str) -> None:
    image = ImageShape(1, 8, 8)
    recipe, data = quick(resolve(name)), labelled_pixels(image)
    objective = build(recipe, image)
    objective.prepare(data)
    for player in objective.players:
        objective.loss(player, data.batch(0, 16))  # gives batch normalisation something to remember
    sampler = catalog.build_sampler(recipe.sampler)
    network = objective.exported.eval()
    whole = sampler.sample(network, request(network, 5, torch.arange(24)))
    assert whole.shape == (24, 1, 8, 8)
    assert not whole.requires_grad
    assert torch.isfinite(whole).all()
    for size, count in ((1, 4), (7, 14)):
        pieces = request(network, 5, torch.arange(count)).split(size)
        parts = torch.cat([sampler.sample(network, piece) for piece in pieces])
        torch.testing.assert_close(parts, whole[:count], atol=1e-5, rtol=1e-5)
    backwards = sampler.sample(network, request(network, 5, torch.arange(23, -1, -1)))
    torch.testing.assert_close(backwards.flip(0), whole, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(sampler.sample(network, request(network, 6, torch.arange(24))), whole, atol=1e-2)


@pytest.mark.parametrize("name", LIBRARY)
def test_what_was_exported_is_built_again_and_draws_the_same(name: str) -> None:
    image = ImageShape(1, 8, 8)
    recipe = quick(resolve(name))
    objective = build(recipe, image)
    objective.prepare(labelled_pixels(image))
    exported = Exported.from_json(catalog.exported(recipe, image, CLASSES).to_json())
    network, sampler = exported.build()
    network.load_state_dict(objective.exported.state_dict(), strict=True)
    draw = request(network, 0, torch.arange(3))
    expected = catalog.build_sampler(recipe.sampler).sample(objective.exported.eval(), draw)
    torch.testing.assert_close(sampler.sample(network.eval(), draw), expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", [name for name in LIBRARY if catalog.read_library(name).get("density")])
def test_a_density_tells_each_image_by_itself(name: str) -> None:
    """The same number at any batch size, in any order, under another seed another or the same, always finite."""
    image = ImageShape(1, 8, 8)
    recipe, data = quick(resolve(name)), labelled_pixels(image)
    assert recipe.density is not None
    objective = build(recipe, image)
    objective.prepare(data)
    networks = {role: network.eval() for role, network in objective.kept().items()}
    objective.finish(data)
    density = catalog.build_density(recipe.density)
    density.check(objective.exported)
    assert density.how and density.of(networks)
    images, labels = data.images[:6], torch.arange(6) % CLASSES if objective.exported.port.classes else None
    whole = density.log_likelihood(networks, images, Draw(5, torch.arange(6), labels))
    assert whole.shape == (6,) and not whole.requires_grad
    assert torch.isfinite(whole).all()
    assert not density.normalised or (whole <= 0).all(), "a probability of 8-bit images, or a bound on one"
    for indices in (torch.tensor([3]), torch.tensor([5, 0, 2])):
        draw = Draw(5, indices, None if labels is None else labels[indices])
        part = density.log_likelihood(networks, images[indices], draw)
        torch.testing.assert_close(part, whole[indices], atol=1e-3, rtol=1e-5)


def test_an_entry_changes_the_kind_of_a_range_and_takes_keys_out_of_the_space() -> None:
    key = "objective.latent_size"
    assert resolve("vae").search.space[key].choices == (6, 8, 12, 16)
    ranged = resolve("vae", search={"space": {key: {"low": 4, "high": 64}}}).search.space[key]
    assert (ranged.low, ranged.high, ranged.choices) == (4, 64, None)
    assert key not in resolve("vae", search={"space": {key: None}}).search.space


def test_what_an_entry_states_itself_is_not_turned_by_the_search() -> None:
    assert "objective.latent_size" in resolve("vae").search.space
    stated = resolve("vae", objective={"latent_size": 100})  # outside of the library's choices, too
    assert set(resolve("vae").search.space) - set(stated.search.space) == {"objective.latent_size"}
    assert stated.objective["latent_size"] == 100


@pytest.mark.parametrize(
    ("networks", "gone"),
    [
        (
            {"denoiser": {"name": "edm-denoiser"}},
            {"networks.denoiser.prediction", "networks.denoiser.backbone.dropout"},
        ),
        ({"denoiser": {"backbone": {"name": "mlp-backbone"}}}, {"networks.denoiser.backbone.dropout"}),
        ({"denoiser": {"name": "ddpm-denoiser", "backbone": {"name": "unet"}}}, set()),
    ],
)
def test_the_search_turns_no_settings_of_a_part_that_an_entry_replaces(
    networks: dict[str, Any], gone: set[str]
) -> None:
    replaced = resolve("ddpm", networks=networks, sampler={"name": "ddim"})
    assert set(resolve("ddpm").search.space) - set(replaced.search.space) == gone
    key = "networks.denoiser.backbone.dropout"
    asked = resolve("ddpm", networks={"denoiser": {"name": "edm-denoiser"}}, search={"space": {key: {"choices": [0]}}})
    assert asked.search.space[key].choices == (0,)  # of the other part, where the entry says so itself


KNOWN = [
    {"objective.latent_size": 10, "training.optimizer.learning_rate": 2e-3},
    {"objective.latent_size": 40},
]


def test_a_portfolio_is_the_library_s_as_far_as_it_fits_or_the_entry_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    base = catalog.read_library("vae-mlp", "test")
    known = {**base, "search": {**base["search"], "portfolio": KNOWN}}
    monkeypatch.setattr(catalog, "read_library", lambda name, where: known)

    def portfolio(**entry: Any) -> list[dict[str, Any]]:
        return list(catalog.resolve("test", {"from": "vae-mlp", **entry}).search.portfolio)

    assert portfolio() == KNOWN
    assert portfolio(objective={"latent_size": 30}) == [{"training.optimizer.learning_rate": 2e-3}]
    rate = {"training.optimizer.learning_rate": {"low": 5e-4, "high": 1.5e-3, "log": True}}
    assert portfolio(search={"space": rate}) == [{"objective.latent_size": 10}, {"objective.latent_size": 40}]
    sizes = {"objective.latent_size": {"choices": [20, 40]}}
    assert portfolio(search={"space": sizes}) == [{"training.optimizer.learning_rate": 2e-3}, KNOWN[1]]
    assert portfolio(search={"portfolio": []}) == []
    assert portfolio(search={"portfolio": [KNOWN[1]]}) == [KNOWN[1]]
    with pytest.raises(UserError, match=r"portfolio\.0\.objective\.latent_size: 10 is not one of 20, 40"):
        portfolio(search={"space": sizes, "portfolio": KNOWN})


def test_what_only_larger_images_would_show_is_told_at_once() -> None:
    """At 8x8 the critic of style dcgan has one convolution, which is not normalised; at larger sizes it has more."""
    with pytest.raises(UserError, match=r"objective\.r1: not with batch normalisation"):
        resolve("dcgan", objective={"r1": 1.0})


def test_checking_a_recipe_draws_nothing_from_the_generator() -> None:
    torch.manual_seed(0)
    resolve("hinge-sngan")
    drawn = torch.rand(())
    torch.manual_seed(0)
    assert drawn == torch.rand(())


def test_every_objective_has_a_recipe() -> None:
    assert {resolve(name).objective["name"] for name in LIBRARY} == set(OBJECTIVES)
