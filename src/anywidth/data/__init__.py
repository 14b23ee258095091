"""Datasets by name, and loaders that batch them."""

from anywidth.data.bundle import DataBundle
from anywidth.data.hold_out import hold_out
from anywidth.data.item_loader import ItemLoader
from anywidth.data.load import load_data
from anywidth.data.loaders import Loaders, make_loaders
from anywidth.data.order import BatchOrder
from anywidth.data.resident import resident
from anywidth.data.tensor_images import TensorImages
from anywidth.data.tensor_loader import TensorLoader

__all__ = [
    "BatchOrder",
    "DataBundle",
    "ItemLoader",
    "Loaders",
    "TensorImages",
    "TensorLoader",
    "hold_out",
    "load_data",
    "make_loaders",
    "resident",
]
