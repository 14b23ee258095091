"""Which channels of a model move together."""

from anywidth.groups.adapters import adapter
from anywidth.groups.analyse import analyse
from anywidth.groups.analysis import Analysis, ChannelGroup
from anywidth.groups.rules import rule

__all__ = ["Analysis", "ChannelGroup", "adapter", "analyse", "rule"]
