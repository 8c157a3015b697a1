"""A causal transformer over pixels (after Radford et al. 2019, GPT-2, and Chen et al. 2020, "Generative pretraining
from pixels").

A token a pixel, in reading order: position i is given pixel i - 1 and speaks of pixel i; the first is given a token of
its own, which is the label's where there are labels. Each token also knows its place by learned vectors of its row and
its column (Child et al. 2019, section 5.4). Blocks have their normalisation first, as in GPT-2.

Pixels enter by a learned vector for each level of each channel. Drawn pixel by pixel, keys and values of the pixels
before are kept, so that each position is computed once: a step costs one position, where the plain way computes all
positions before it again.
"""

from __future__ import annotations

import math

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from genforge.contracts import Port
from genforge.networks.autoregressive import AutoregressiveNetwork, AutoregressiveSettings, Walk, to_levels
from genforge.networks.layers import Dropout, LabelEmbedding, draw_weights

FIRST_WEIGHTS = 0.02  # standard deviation, as in GPT-2


class PixelTransformerSettings(AutoregressiveSettings):
    width: int = Field(64, ge=8, le=1024, multiple_of=8, description="values a token")
    layers: int = Field(4, ge=1, le=48, description="blocks of attention and a hidden layer")
    heads: int = Field(4, ge=1, le=32, description="of attention; divides the width")
    dropout: float = Field(0.0, ge=0.0, lt=1.0, description="share of values dropped at the end of every branch")

    @model_validator(mode="after")
    def _heads_divide(self) -> PixelTransformerSettings:
        if self.width % self.heads:
            raise ValueError(f"heads that divide the width: {self.width} does not fall into {self.heads}")
        return self


class Block(nn.Module):
    """Attention to the tokens before, then a hidden layer, each added to its input."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.first_norm, self.second_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.project_in, self.project_out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.hidden, self.leave = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        """Tokens (n, tokens, width) to the same shape; with a cache, of the tokens that follow those in it."""
        mixed = self.project_in(self.first_norm(x)).unflatten(-1, (3, self.heads, -1))
        query, key, value = mixed.permute(2, 0, 3, 1, 4)  # each (n, heads, tokens, values of a head)
        if cache is None:
            attended = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        else:
            attended = functional.scaled_dot_product_attention(query, *cache.extended(key, value))
        x = x + self.dropout(self.project_out(attended.transpose(1, 2).flatten(2)))
        return x + self.dropout(self.leave(functional.gelu(self.hidden(self.second_norm(x)))))


class Cache:
    """Keys and values of the tokens before, of one block: (n, heads, tokens, values of a head) each."""

    def __init__(self, tokens: Tensor, count: int, heads: int) -> None:
        """Room for `count` images of tokens such as these, (tokens, width)."""
        length, width = tokens.shape
        self.keys, self.values = tokens.new_empty(2, count, heads, length, width // heads)
        self.filled = 0

    def extended(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values, with those of one token more, (n, heads, 1, values of a head)."""
        place = slice(self.filled, self.filled + 1)
        self.keys[:, :, place], self.values[:, :, place] = key, value
        self.filled += 1
        return self.keys[:, :, : self.filled], self.values[:, :, : self.filled]


class PixelTransformer(AutoregressiveNetwork):
    """See the head of this file."""

    settings_type = PixelTransformerSettings

    def __init__(self, settings: PixelTransformerSettings, port: Port) -> None:
        super().__init__(settings, port)
        image = port.image
        self.heads = settings.heads
        self.start = LabelEmbedding(port.classes or 1, settings.width)
        self.pixel = nn.ModuleList(nn.Embedding(2**settings.bits, settings.width) for _ in range(image.channels))
        self.row, self.column = nn.Embedding(image.height, settings.width), nn.Embedding(image.width, settings.width)
        self.dropout = Dropout(settings.dropout)
        self.blocks = nn.ModuleList(
            Block(settings.width, settings.heads, settings.dropout) for _ in range(settings.layers)
        )
        self.norm = nn.LayerNorm(settings.width)
        self.leave = nn.Linear(settings.width, settings.features)
        self._draw_weights()

    def _draw_weights(self) -> None:
        """As in GPT-2: small, and those that end a branch smaller the more branches there are."""
        draw_weights(self.blocks, FIRST_WEIGHTS)
        for block in self.blocks:
            assert isinstance(block, Block)
            for last in (block.project_out, block.leave):
                nn.init.normal_(last.weight, 0.0, FIRST_WEIGHTS / math.sqrt(2 * len(self.blocks)))
        for layer in self.modules():
            if isinstance(layer, nn.Embedding):
                nn.init.normal_(layer.weight, 0.0, FIRST_WEIGHTS)

    def features(self, values: Tensor, labels: Tensor | None) -> Tensor:
        n, _, height, width = values.shape
        before = self._pixels(values.flatten(2).transpose(1, 2)[:, :-1])  # (n, h * w - 1, width)
        tokens = torch.cat([self._first(n, labels)[:, None], before], dim=1) + self._places()
        tokens = self.dropout(tokens)
        for block in self.blocks:
            tokens = block(tokens)
        return self.leave(self.norm(tokens)).unflatten(1, (height, width))

    def walk(self, count: int, labels: Tensor | None) -> Walk:
        places = self._places()
        caches = [Cache(places, count, self.heads) for _ in self.blocks]
        given = self._first(count, labels)
        for place in places:
            token = (given + place)[:, None]
            for block, cache in zip(self.blocks, caches, strict=True):
                token = block(token, cache)
            values = yield self.leave(self.norm(token[:, 0]))
            given = self._pixels(values)

    def _first(self, count: int, labels: Tensor | None) -> Tensor:
        """The token before all pixels, (n, width): the label's, where there are labels."""
        if not self.port.classes:
            labels = torch.zeros(count, dtype=torch.int64, device=self.start.table.weight.device)
        return self.start(labels)

    def _pixels(self, values: Tensor) -> Tensor:
        """Values (..., c) in [-1, 1] to tokens (..., width): the sum of the channels' vectors."""
        levels = to_levels(values, self.bits)
        tokens = self.pixel[0](levels[..., 0])
        for channel in range(1, len(self.pixel)):
            tokens = tokens + self.pixel[channel](levels[..., channel])
        return tokens

    def _places(self) -> Tensor:
        """What tells tokens where they are: (h * w, width)."""
        return (self.row.weight[:, None] + self.column.weight).flatten(0, 1)
