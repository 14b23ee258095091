"""Reference networks as plain modules, and models by name."""

from anywidth.models.digits_net import DigitsNet
from anywidth.models.factory import build_model, model_names
from anywidth.models.initial_weights import load_initial
from anywidth.models.initialise import initialise
from anywidth.models.layout import channels_last_
from anywidth.models.mnasnet import MNasNet
from anywidth.models.mobilenet_v1 import MobileNetV1
from anywidth.models.mobilenet_v2 import MobileNetV2
from anywidth.models.resnet import ResNet
from anywidth.models.shufflenet import ShuffleNet

__all__ = [
    "DigitsNet",
    "MNasNet",
    "MobileNetV1",
    "MobileNetV2",
    "ResNet",
    "ShuffleNet",
    "build_model",
    "channels_last_",
    "initialise",
    "load_initial",
    "model_names",
]
