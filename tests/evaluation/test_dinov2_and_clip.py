"""DINOv2 and CLIP through the same door, with weights made for the test: nothing means anything."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from genforge.contracts import to_network
from genforge.evaluation.clip import ClipExtractor, clip_weights
from genforge.evaluation.dinov2 import HEAD, Block, Dinov2Extractor, VisionTransformer, dinov2_weights
from genforge.evaluation.extractor import load_extractor, write_card, write_weights
from genforge.settings import UserError
from genforge.torchvision_cure import import_torchvision

Make = Callable[..., Any]
WIDTH, PATCH = 2 * HEAD, 56


def dinov2(trained_rows: int = 4, gated: bool = False) -> dict[str, Tensor]:
    """Weights of two blocks, of the published names; a patch of 56 pixels makes 4 rows of an image of 224."""
    torch.manual_seed(0)
    hidden = 3 * WIDTH
    sizes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, WIDTH),
        "pos_embed": (1, 1 + trained_rows**2, WIDTH),
        "mask_token": (1, WIDTH),
        "patch_embed.proj.weight": (WIDTH, 3, PATCH, PATCH),
        "patch_embed.proj.bias": (WIDTH,),
        "norm.weight": (WIDTH,),
        "norm.bias": (WIDTH,),
    }
    mlp = (
        {"w12": (2 * hidden, WIDTH), "w3": (WIDTH, hidden)}
        if gated
        else {"fc1": (hidden, WIDTH), "fc2": (WIDTH, hidden)}
    )
    for block in range(2):
        layers = {"attn.qkv": (3 * WIDTH, WIDTH), "attn.proj": (WIDTH, WIDTH)}
        layers |= {f"mlp.{name}": size for name, size in mlp.items()}
        for name, size in layers.items():
            sizes |= {f"blocks.{block}.{name}.weight": size, f"blocks.{block}.{name}.bias": size[:1]}
        for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "ls1.gamma", "ls2.gamma"):
            sizes[f"blocks.{block}.{name}"] = (WIDTH,)
    return {name: torch.randn(size) * 0.1 for name, size in sizes.items()}


def clip() -> dict[str, Tensor]:
    """CLIP's weights of one layer over 4 x 4 patches, with some of its text encoder's."""
    import_torchvision()
    from torch_fidelity.feature_extractor_clip import CLIPVisual

    torch.manual_seed(0)
    network = CLIPVisual(embed_dim=16, image_resolution=32, vision_layers=1, vision_width=WIDTH, vision_patch_size=8)
    weights = {name: value.half().float() for name, value in network.state_dict().items()}  # as they are published
    text = {"text_projection": torch.randn(24, 16), "logit_scale": torch.ones(()), "ln_final.weight": torch.ones(24)}
    return weights | text


def images(count: int = 6, channels: int = 3) -> np.ndarray:
    return np.random.RandomState(0).randint(0, 256, (count, 8, 8, channels)).astype(np.uint8)


def test_a_block_is_pytorchs_own_transformer_layer() -> None:
    """Up to the scales of channels, which are 1 here and PyTorch has not."""
    torch.manual_seed(0)
    ours = Block(WIDTH, 3 * WIDTH, gated=False).eval()
    theirs = nn.TransformerEncoderLayer(
        WIDTH, 2, 3 * WIDTH, 0.0, "gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
    ).eval()
    for value in ours.parameters():
        nn.init.normal_(value, std=0.1)
    for scale in (ours.ls1, ours.ls2):
        nn.init.ones_(scale.gamma)
    names = {
        "attn.qkv.": "self_attn.in_proj_",
        "attn.proj": "self_attn.out_proj",
        "mlp.fc1": "linear1",
        "mlp.fc2": "linear2",
    }
    weights = {name: value for name, value in ours.state_dict().items() if not name.startswith("ls")}
    for old, new in names.items():
        weights = {name.replace(old, new): value for name, value in weights.items()}
    theirs.load_state_dict(weights)
    tokens = torch.randn(3, 5, WIDTH)
    with torch.no_grad():
        assert torch.allclose(ours(tokens), theirs(tokens), atol=1e-5)


def test_scales_are_of_channels_before_they_are_added() -> None:
    block = Block(WIDTH, 3 * WIDTH, gated=True)
    nn.init.zeros_(block.ls1.gamma)
    nn.init.zeros_(block.ls2.gamma)
    tokens = torch.randn(3, 5, WIDTH)
    assert torch.equal(block(tokens), tokens)


def test_places_are_resized_to_the_rows_that_there_are() -> None:
    rows = 37  # of the published weights, at 518 pixels
    weights = dinov2(trained_rows=rows)
    ramp = torch.linspace(0, 1, rows)[:, None, None].expand(rows, rows, WIDTH)
    weights["pos_embed"][0, 1:] = ramp.flatten(0, 1)
    network = VisionTransformer(weights)
    network.load_state_dict(weights)
    assert torch.equal(network.places(rows), network.pos_embed)
    found = network.places(16)[0, 1:].unflatten(0, (16, 16)).detach()
    # Centre of row i of 16, in rows of 37: (i + 0.5) * 37 / 16.1 - 0.5.
    centres = ((torch.arange(16) + 0.5) * rows / 16.1 - 0.5) / (rows - 1)
    assert torch.allclose(found[1:-1, 3, 0], centres[1:-1], atol=2e-3)
    assert torch.equal(network.places(16)[0, 0], network.pos_embed[0, 0])


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_dinov2_goes_the_whole_path(gated: bool, channels: int, tmp_path: Path, judge_of: Make) -> None:
    save_file(dinov2(gated=gated), tmp_path / "given.safetensors")
    weights = dinov2_weights(tmp_path / "given.safetensors")
    extractor = Dinov2Extractor(weights, write_weights(tmp_path, weights))
    write_card(tmp_path, extractor, {})
    again = load_extractor(tmp_path)
    made = images(60, channels)
    seen = again.features(made)
    assert seen.features.shape == (60, WIDTH)
    assert seen.logits is None
    assert np.array_equal(seen.features, extractor.features(made).features)
    judge = judge_of(again, made)
    scores = judge.score(images(60, channels)[:, ::-1])
    assert scores["fid"] > 0
    assert "names no classes" in judge.left_out["is"]
    assert judge.protocol(60).name.startswith("dinov2-")
    assert "path_length" not in judge.choose(None)  # which costs too much here, unless it is asked for


def test_clip_sees_what_torch_fidelitys_own_sees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import_torchvision()
    from torch_fidelity.feature_extractor_clip import FeatureExtractorCLIP

    torch.save(clip(), tmp_path / "clip.pth")
    weights = clip_weights(tmp_path / "clip.pth")
    assert not any(name.startswith("ln_final") for name in weights)
    extractor = ClipExtractor(weights, write_weights(tmp_path, weights))
    write_card(tmp_path, extractor, {})

    monkeypatch.setattr(torch.jit, "load", lambda *arguments, **keywords: SimpleNamespace(state_dict=clip))
    theirs = FeatureExtractorCLIP("clip-vit-b-32", ["clip"], feature_extractor_weights_path="any")
    made = images()
    expected = theirs(torch.from_numpy(made).permute(0, 3, 1, 2))[0].numpy()
    found = load_extractor(tmp_path).features(made).features
    assert found == pytest.approx(expected, abs=1e-5)
    assert np.abs(found[0] - found[1]).max() > 1e-3


@pytest.mark.parametrize("name", ["clip", "dinov2"])
def test_between_whole_levels_the_door_is_the_same(name: str) -> None:
    extractor = ClipExtractor(clip(), "") if name == "clip" else Dinov2Extractor(dinov2(), "")
    made = torch.from_numpy(images())
    with torch.no_grad():
        assert torch.allclose(extractor.look(made)[0], extractor.look_between(to_network(made)), atol=1e-4)


@pytest.mark.parametrize(("read", "other"), [(clip_weights, "CLIP's image encoder"), (dinov2_weights, "DINOv2")])
def test_other_weights_are_refused(read: Make, other: str, tmp_path: Path) -> None:
    torch.save({"fc.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=rf"extractor\.weights: .*other\.pth does not fit {other}"):
        read(tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"no file is named; give"):
        read(None)


def test_a_published_archive_of_clip_is_code_and_the_remedy_is_told(tmp_path: Path) -> None:
    with torch.no_grad():
        torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)).save(str(tmp_path / "ViT-B-32.pt"))
    with pytest.raises(UserError, match=r"does not hold plain weights.*state_dict\(\), \"clip\.pth\""):
        clip_weights(tmp_path / "ViT-B-32.pt")
