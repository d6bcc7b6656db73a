'''The data sets by name, and how to add one.

A new data set is a function that takes a `DataConfig` and returns a `Source`, and an entry in `DATASETS`. The function
names the data and its checksum; the images are read when `decode` is called. For example:

    def stripes(config: DataConfig) -> Source:
        """1,000 images of 8 x 8 with upright or level stripes."""

        def draw(seed: int) -> MemoryImages:
            labels = torch.randint(2, (500,), generator=torch.Generator().manual_seed(seed))
            level = (torch.arange(8) % 2 * 255).byte().view(8, 1).expand(8, 8)
            images = torch.where(labels.view(-1, 1, 1, 1) == 1, level, level.T)
            return MemoryImages(images, labels)

        def decode() -> Parts:
            return {"train": draw(0), "test": draw(1)}

        return Source("stripes", hashlib.sha256(b"stripes, version 1").hexdigest(), decode)

    DATASETS["stripes"] = stripes

The checksum must change whenever the images do: it is part of each run's identity, and decoded images are cached under
it. A data set in files hashes them with `digests.hash_files`.
'''

from __future__ import annotations

from collections.abc import Callable

from ablations.config import DataConfig
from ablations.data.arrays import arrays
from ablations.data.builtin import digits, random
from ablations.data.imagefolder import imagefolder
from ablations.data.parquet import parquet
from ablations.data.published import cifar10, cifar100, fashion_mnist, mnist, svhn
from ablations.data.source import Source

DATASETS: dict[str, Callable[[DataConfig], Source]] = {
    "digits": digits,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "svhn": svhn,
    "mnist": mnist,
    "fashion-mnist": fashion_mnist,
    "imagefolder": imagefolder,
    "parquet": parquet,
    "arrays": arrays,
    "random": random,
}
