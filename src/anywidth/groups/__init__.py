"""Channel groups: the channels of a model that must be narrowed together."""

from anywidth.groups.adapters import adapter
from anywidth.groups.analyse import analyse
from anywidth.groups.analysis import Analysis, ChannelGroup
from anywidth.groups.operators import OPERATORS, Call, Operator

__all__ = ["OPERATORS", "Analysis", "Call", "ChannelGroup", "Operator", "adapter", "analyse"]
