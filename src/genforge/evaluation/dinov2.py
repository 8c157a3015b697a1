"""DINOv2's vision transformer (Oquab et al. 2023), with weights from a file, for FD-DINOv2 (Stein et al. 2023).

torch-fidelity fetches this network's code from a repository; here it stands below, for the published weights. What is
done to images before it is torch-fidelity's: to 224 x 224 as TensorFlow 1 resizes, then ImageNet's mean and deviation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from genforge.evaluation.encoder import Encoder
from genforge.evaluation.weights import first_line, read_weights
from genforge.settings import UserError

WANTED = "weights as https://dl.fbaipublicfiles.com/dinov2/dinov2_vits14/dinov2_vits14_pretrain.pth has them"
HEAD = 64  # channels of one attention head, in every published size


class Dinov2Extractor(Encoder):
    """Features are the class token after the last norm."""

    name = "dinov2"
    feature_layer = "dinov2"
    side = 224
    normal = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
    why_no_logits = "dinov2 names no classes; IS needs extractor.name: classifier or inception"

    def __init__(self, weights: Mapping[str, Tensor], digest: str, device: str = "cpu") -> None:
        network = VisionTransformer(weights)
        network.load_state_dict(dict(weights))
        self.network = network.to(device).eval().requires_grad_(False)
        self.dimensions = network.norm.weight.shape[0]
        self.digest, self.device = digest, device


class VisionTransformer(nn.Module):
    """Images (n, 3, side, side) to features (n, d). Sizes are read off the weights, whose names it has."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        width, _, patch, _ = weights["patch_embed.proj.weight"].shape
        depth = 1 + max(int(key.split(".")[1]) for key in weights if key.startswith("blocks."))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, patch, stride=patch)})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.mask_token = nn.Parameter(torch.zeros(1, width))  # of its training
        self.pos_embed = nn.Parameter(torch.zeros_like(weights["pos_embed"]))
        gated = "blocks.0.mlp.w12.weight" in weights
        hidden = weights["blocks.0.mlp.w3.weight" if gated else "blocks.0.mlp.fc2.weight"].shape[1]
        self.blocks = nn.ModuleList(Block(width, hidden, gated) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patch_embed["proj"](images)  # (n, d, rows, columns)
        places = self.places(patches.shape[2])
        tokens = torch.cat([self.cls_token.expand(len(images), -1, -1), patches.flatten(2).transpose(1, 2)], dim=1)
        tokens = tokens + places
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens[:, 0])

    def places(self, rows: int) -> Tensor:
        """Embeddings of places, (1, 1 + rows * rows, d), resized where training had another number of rows."""
        trained = math.isqrt(self.pos_embed.shape[1] - 1)
        if trained == rows:
            return self.pos_embed
        grid = self.pos_embed[:, 1:].unflatten(1, (trained, trained)).permute(0, 3, 1, 2)
        # A tenth of a row more, as in training: against rounding down, and it moves the places that are read a little.
        scale = (rows + 0.1) / trained
        grid = functional.interpolate(grid, scale_factor=(scale, scale), mode="bicubic")
        return torch.cat([self.pos_embed[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)


class Block(nn.Module):
    """Attention, then a perceptron, each on normed tokens (n, t, d) and scaled by channel before it is added."""

    def __init__(self, width: int, hidden: int, gated: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.ls1, self.ls2 = Scale(width), Scale(width)
        self.mlp = Gated(width, hidden) if gated else Perceptron(width, hidden)
        self.heads = width // HEAD

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.ls1(self.attention(self.norm1(tokens)))
        return tokens + self.ls2(self.mlp(self.norm2(tokens)))

    def attention(self, tokens: Tensor) -> Tensor:
        parts = self.attn["qkv"](tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (3, n, heads, t, _)
        mixed = functional.scaled_dot_product_attention(parts[0], parts[1], parts[2])
        return self.attn["proj"](mixed.transpose(1, 2).flatten(2))


class Perceptron(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc2(functional.gelu(self.fc1(tokens)))


class Gated(nn.Module):
    """SwiGLU (Shazeer 2020), in the largest size."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.w12, self.w3 = nn.Linear(width, 2 * hidden), nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        gate, value = self.w12(tokens).chunk(2, dim=-1)
        return self.w3(functional.silu(gate) * value)


class Scale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens * self.gamma


def dinov2_weights(path: Path | None) -> dict[str, Tensor]:
    """Raises UserError when there is no such file, or it holds something else."""
    weights = read_weights(path, WANTED)
    try:
        Dinov2Extractor(weights, "")
    except (RuntimeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise UserError(f"extractor.weights: {path} does not fit DINOv2 ({first_line(error)}); give {WANTED}") from None
    return weights
