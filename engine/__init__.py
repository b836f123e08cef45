"""Frames to atoms."""

from engine.atoms import CONTAMINATED, EDGE, Atoms
from engine.detector import Detector, load_detector
from engine.errors import AtomstreamError, ConfigError, FileError, FrameError, ModelError
from engine.frame import Frame
from engine.shipped import list_models, model_card
from engine.spec import ModelSpec

__all__ = [
    "CONTAMINATED",
    "EDGE",
    "Atoms",
    "AtomstreamError",
    "ConfigError",
    "Detector",
    "FileError",
    "Frame",
    "FrameError",
    "ModelError",
    "ModelSpec",
    "list_models",
    "load_detector",
    "model_card",
]
