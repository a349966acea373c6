"""Trains a small network on real images and the pool of a study, with a fixed synthetic fraction per batch.

python examples/train_with_pool.py REAL_TRAIN_FOLDER STUDY [EPOCHS]
"""

import sys

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

import diffaug


def main(folder: str, study: str, epochs: int = 5) -> nn.Module:
    """Trains on `folder`, one folder per class, and returns the network."""
    size = diffaug.Generator.load(study).image_size
    transform = v2.Compose([v2.Grayscale(), v2.Resize(size), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    real = ImageFolder(folder, transform=transform)
    train_set = diffaug.AugmentedDataset(real, diffaug.Pool.open(study))
    batches = diffaug.MixedBatchSampler(train_set, batch_size=32, synthetic_fraction=0.3)
    loader = DataLoader(train_set, batch_sampler=batches)

    network = nn.Sequential(
        nn.Flatten(), nn.Linear(size[0] * size[1], 128), nn.ReLU(), nn.Linear(128, len(real.classes))
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for epoch in range(epochs):
        for images, labels in loader:
            loss = nn.functional.cross_entropy(network(images), labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}")
    return network


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:4]))
