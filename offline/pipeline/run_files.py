"""What the stages of a night read: names of files, rows of the sets, the network."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass

SPLITS = "splits.json"
BACKBONE = "backbone.safetensors"
SUPERVISED = "model_supervised.safetensors"
BEST = "model_best.safetensors"
TRAINING_LOG = "training.csv"
TRAINING = "training.json"
REPORT = "report.json"
PAGE = "report.html"
METRICS = "metrics.csv"
REFERENCES = "reference_rules.json"
THRESHOLDS = "thresholds.json"
COMPARISON = "comparison.json"
DRIFT = "drift.json"
# Not from `stage1.model.adapters.attach`, which would bring torch with it.
ADAPTER_TENSORS = "adapter.safetensors"
PUBLICATION = "publish.json"
