"""Export of widths to files that other programs run."""

from anywidth.export.budget import known_widths, widest_within
from anywidth.export.card import CardFacts, model_card, write_card
from anywidth.export.export import Exported, export
from anywidth.export.formats import FORMATS, ExportFormat, format_of
from anywidth.export.int8 import export_int8
from anywidth.export.ladder import export_ladder
from anywidth.export.latency import onnx_latency
from anywidth.export.score import evaluate_onnx
from anywidth.export.torch_file import load_dense

__all__ = [
    "FORMATS",
    "CardFacts",
    "ExportFormat",
    "Exported",
    "evaluate_onnx",
    "export",
    "export_int8",
    "export_ladder",
    "format_of",
    "known_widths",
    "load_dense",
    "model_card",
    "onnx_latency",
    "widest_within",
    "write_card",
]
