"""The whole path of `inception`, with weights made for the test: nothing is downloaded, nothing means anything."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from genforge.contracts import ImageShape, to_network
from genforge.evaluation import fidelity
from genforge.evaluation.extractor import write_weights
from genforge.evaluation.inception import InceptionExtractor, inception_network, inception_weights
from genforge.settings import UserError
from genforge.torchvision_cure import import_torchvision

Make = Callable[..., Any]
COUNT = 10  # images of each kind; as many as the splits of the inception score
SEEN = 107  # pixels: the side that the network sees here, 299 otherwise, at which it takes eight times as long


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    """Weights of the right names and shapes, drawn so that signals neither vanish nor explode on the way."""
    import_torchvision()
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "load", lambda *arguments, **keywords: {})
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        blank = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path="none")
    drawn = blank.state_dict()
    for name, value in drawn.items():
        if value.ndim > 1:
            value.normal_(0.0, (2.0 / value[0].numel()) ** 0.5)
        elif name.endswith("bn.bias"):
            value.normal_(0.0, 0.1)
    return drawn


@pytest.mark.slow
def test_numbers_equal_torch_fidelity_with_its_own_extractor_and_gray_goes_to_three_channels(
    weights: dict[str, torch.Tensor],
    judge_of: Make,
    images_of: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fidelity, "FEWEST_IMAGES", COUNT)
    import torch_fidelity
    from torch.utils.data import Dataset
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    monkeypatch.setattr(FeatureExtractorInceptionV3, "INPUT_IMAGE_SIZE", SEEN)

    class Coloured(Dataset):
        def __init__(self, images: np.ndarray) -> None:
            self.images = torch.from_numpy(images).permute(0, 3, 1, 2).repeat(1, 3, 1, 1)

        def __len__(self) -> int:
            return len(self.images)

        def __getitem__(self, index: int) -> torch.Tensor:
            return self.images[index]

    torch.save(weights, tmp_path / "inception.pth")
    shape = ImageShape(1, 8, 8)
    real, generated = images_of(COUNT, shape, seed=0), images_of(COUNT, shape, level=90, seed=1)
    digest = write_weights(tmp_path, inception_weights(tmp_path / "inception.pth"))
    judge = judge_of(InceptionExtractor(inception_weights(tmp_path / "inception.pth"), digest), real)
    judge.batch_size = COUNT
    ours = judge.score(generated)
    theirs = torch_fidelity.calculate_metrics(
        input1=Coloured(generated),
        input2=Coloured(real),
        cuda=False,
        batch_size=COUNT,
        isc=True,
        fid=True,
        kid=True,
        prc=True,
        feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(tmp_path / "inception.pth"),
        cache=False,
        save_cpu_ram=True,
        verbose=False,
        kid_subset_size=COUNT,
        rng_seed=2020,
    )
    assert ours["fid"] == pytest.approx(theirs["frechet_inception_distance"], rel=1e-4)
    assert ours["kid"] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-4)
    assert ours["is"] == pytest.approx(theirs["inception_score_mean"], rel=1e-6)
    assert ours["precision"] == pytest.approx(theirs["precision"], rel=1e-6)
    assert ours["recall"] == pytest.approx(theirs["recall"], rel=1e-6)
    protocol = judge.protocol(COUNT)
    assert (protocol.extractor, protocol.feature_layer, protocol.logits_layer) == (
        "inception",
        "2048",
        "logits_unbiased",
    )


def test_normalisations_folded_into_convolutions_leave_the_features_as_they_are(
    weights: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    monkeypatch.setattr(FeatureExtractorInceptionV3, "INPUT_IMAGE_SIZE", SEEN)
    torch.manual_seed(1)
    drawn = {
        name: torch.rand_like(value) + 0.5 if name.endswith(("bn.weight", "bn.running_var")) else value
        for name, value in weights.items()
    }
    images = torch.from_numpy(np.random.RandomState(0).randint(0, 256, (2, 12, 12, 3)).astype(np.uint8))
    extractor = InceptionExtractor(drawn, "made")
    assert not [each for each in extractor.network.modules() if isinstance(each, torch.nn.BatchNorm2d)]
    with torch.no_grad():
        plain = inception_network(drawn)(images.permute(0, 3, 1, 2))
        for ours, theirs in zip(extractor.look(images), plain, strict=True):
            assert float((ours - theirs).abs().max() / theirs.abs().max()) < 1e-5


def test_weights_are_read_from_both_kinds_of_file(weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save(weights, tmp_path / "a.pth")
    save_file(weights, tmp_path / "b.safetensors")
    first, second = inception_weights(tmp_path / "a.pth"), inception_weights(tmp_path / "b.safetensors")
    assert all(torch.equal(first[name], second[name]) for name in weights)


def test_other_weights_are_refused(tmp_path: Path) -> None:
    torch.save({"fc.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"extractor\.weights: .*other\.pth does not fit torch-fidelity's InceptionV3"):
        inception_weights(tmp_path / "other.pth")


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("hostile-was-here"),)


def test_code_in_a_weights_file_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"fc.weight": Hostile()}, tmp_path / "hostile.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Hostile()))
    for name in ("hostile.pth", "plain.pth"):
        with pytest.raises(UserError, match=f"{name} does not hold plain weights"):
            inception_weights(tmp_path / name)
    assert not (tmp_path / "hostile-was-here").exists()


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.pth is not a file.*https://"):
        inception_weights(tmp_path / "nothing.pth")


def test_without_a_network_the_remedy_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*arguments: Any, **keywords: Any) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", away)
    with pytest.raises(UserError, match=r"cannot be downloaded here.*extractor\.weights.*classifier"):
        inception_weights(None)


def test_between_whole_levels_the_door_is_the_same(weights: dict[str, torch.Tensor]) -> None:
    extractor = InceptionExtractor(weights, "made")
    images = torch.from_numpy(np.random.RandomState(0).randint(0, 256, (2, 12, 12, 1)).astype(np.uint8))
    with torch.no_grad():
        seen, between = extractor.look(images)[0], extractor.look_between(to_network(images))
        assert torch.allclose(seen, between, rtol=1e-3, atol=1e-4 * float(seen.abs().max()))
        assert not torch.allclose(seen, extractor.look_between(to_network(images).clamp(max=0.5)), rtol=1e-3)
