"""The files of a bundle, by name: what it must hold, and what may lie beside that."""

from __future__ import annotations

MANIFEST = "manifest.json"
ENGINE = "model.onnx"
# Beside the graph where the weights are too large for one file; ONNX Runtime finds it by this name.
WEIGHTS = "model.onnx.data"
SPEC = "spec.json"
# What an engine may read, whatever runs it; nothing else in a bundle begins so.
ENGINE_PREFIXES = ("model.", "engine.")
PARAMS = "scrc_params.json"
PREPROCESS = "preprocess.json"
CALIBRATOR = "calibrator.json"
GOLDEN = "golden.npz"
CONFIG = "config.json"
SPLITS = "splits.json"
METRICS = "metrics.csv"
# What a certificate was computed from; only beside one.
CALIBRATION = "calibration.json"
PAGE = "report.html"
REQUIRED = (ENGINE, PARAMS, PREPROCESS, CALIBRATOR, GOLDEN, CONFIG, SPLITS, METRICS, PAGE)
