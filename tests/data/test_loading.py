"""The stream of batches is a pure function of seed, turn and size, and visits every image once an epoch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from genforge.contracts import to_network
from genforge.data.loading import DeviceData, Prepared
from genforge.files import write_array, write_json
from genforge.settings import UserError

COUNT = 37


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    """Images whose first pixel is their number."""
    images = np.random.default_rng(0).integers(0, 256, (COUNT, 8, 8, 1), dtype=np.uint8)
    images[:, 0, 0, 0] = images[:, 0, 7, 0] = np.arange(COUNT)
    write_array(tmp_path / "train-images.npy", images)
    write_array(tmp_path / "train-labels.npy", np.arange(COUNT) % 3)
    card = {"shape": {"channels": 1, "height": 8, "width": 8}, "classes": ["a", "b", "c"], "digest": "d", "factors": []}
    write_json(tmp_path / "card.json", {**card, "splits": {"train": COUNT, "validation": 0, "test": 0}})
    return Prepared.open(tmp_path)


def numbers(images: torch.Tensor) -> torch.Tensor:
    """Which images these are, mirrored or not."""
    return ((images[:, 0, 0, 0] + 1) * 127.5).round().long()


@pytest.mark.parametrize("size", [1, 5, 37, 50])
def test_every_image_once_an_epoch_whatever_the_batch_size(prepared: Prepared, size: int) -> None:
    data = DeviceData(prepared)
    stream = torch.cat([numbers(data.batch(turn, size).images) for turn in range(-(-3 * COUNT // size))])[: 3 * COUNT]
    epochs = stream.reshape(3, COUNT)
    assert all(sorted(epoch.tolist()) == list(range(COUNT)) for epoch in epochs)
    assert not torch.equal(epochs[0], epochs[1])


def test_a_batch_depends_on_nothing_that_came_before(prepared: Prepared) -> None:
    straight, resumed = DeviceData(prepared, horizontal_flip=True), DeviceData(prepared, horizontal_flip=True)
    batches = [straight.batch(turn, 8) for turn in range(12)]
    for turn in (11, 3, 7):
        again = resumed.batch(turn, 8)
        assert torch.equal(again.images, batches[turn].images) and torch.equal(again.labels, batches[turn].labels)
    other = DeviceData(prepared, seed=1).batch(0, 8)
    assert not torch.equal(numbers(other.images), numbers(batches[0].images))


def test_data_on_disk_give_the_same_bits(prepared: Prepared) -> None:
    held, on_disk = (DeviceData(prepared, horizontal_flip=True, hold=hold) for hold in (True, False))
    for turn in (0, 1, 2, 9, 3):
        assert torch.equal(held.batch(turn, 10).images, on_disk.batch(turn, 10).images)
    for a, b in zip(held.chunks(10), on_disk.chunks(10), strict=True):
        assert torch.equal(a.images, b.images)


def test_labels_stay_with_their_images(prepared: Prepared) -> None:
    batch = DeviceData(prepared).batch(4, 10)
    assert torch.equal(batch.labels, numbers(batch.images) % 3)


def test_half_of_the_images_are_mirrored_and_nothing_else_happens_to_them(prepared: Prepared) -> None:
    original = to_network(torch.from_numpy(np.array(prepared.images("train"))))
    mirrored = 0
    data = DeviceData(prepared, horizontal_flip=True)
    for turn in range(10):
        for image, number in zip((batch := data.batch(turn, COUNT)).images, numbers(batch.images), strict=True):
            straight, flipped = torch.equal(image, original[number]), torch.equal(image.flip(2), original[number])
            assert straight or flipped
            mirrored += flipped
    assert 0.4 < mirrored / (10 * COUNT) < 0.6


def test_chunks_are_the_images_in_their_order(prepared: Prepared) -> None:
    chunks = list(DeviceData(prepared, horizontal_flip=True).chunks(10))
    assert [len(chunk) for chunk in chunks] == [10, 10, 10, 7]
    assert torch.equal(torch.cat([numbers(chunk.images) for chunk in chunks]), torch.arange(COUNT))


def test_opening_what_was_not_prepared_says_which_step_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        Prepared.open(tmp_path)
