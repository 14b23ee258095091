"""Training and test parts of a dataset without a split."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import train_test_split

from anywidth.core.errors import DataError

__all__ = ["stratified_split"]


def stratified_split(
    labels: npt.ArrayLike, *, seed: int, where: str, test_share: float = 0.2
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Indices of a training part and a test part, which have the same shares of every class.

    The split depends only on the labels, the seed and the share.

    Args:
        labels: `(images,)`, integers.
        seed: Seed of the split.
        where: Name of the dataset in messages.
        test_share: Approximate share of the test part.

    Returns:
        Two sorted, disjoint arrays of indices, which together contain all images.

    Raises:
        DataError: A class has a single image, which cannot be in both parts.

    Example:
        >>> train, test = stratified_split([0, 1] * 10, seed=0, where="my set")
        >>> len(train), len(test)
        (16, 4)
    """
    labels = np.asarray(labels)
    classes, counts = np.unique(labels, return_counts=True)
    if counts.min() < 2:
        raise DataError(
            f"{where}: class {int(classes[counts.argmin()])} has only one image, which cannot be used for training "
            "and testing; give at least two images per class, or separate training and test images"
        )
    test_size = max(round(test_share * len(labels)), len(classes))
    train, test = train_test_split(np.arange(len(labels)), test_size=test_size, stratify=labels, random_state=seed)
    return np.sort(train), np.sort(test)
