"""Lets torchvision import beside a torch build that its compiled library was not made for.

The torchvision wheel on the registry is compiled against CUDA torch; beside a CPU build its import
stops at "operator torchvision::nms does not exist". open_clip, timm and diffusers only need its
Python parts, so declaring the two operators' schemas is enough. Import this module before them.
"""

from __future__ import annotations

import importlib
import sys

import torch

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"

try:
    importlib.import_module("torchvision")
except RuntimeError:
    for _name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[_name]
    for _operator in ("nms", "qnms"):
        torch.library.define(f"torchvision::{_operator}", _SCHEMA)
    importlib.import_module("torchvision")
