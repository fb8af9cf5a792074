"""The files that stages hand on to each other, by name; those of a bundle are in `engines.store.file_names`."""

from __future__ import annotations

BACKBONE = "backbone.safetensors"
SUPERVISED = "model_supervised.safetensors"
BEST = "model_best.safetensors"
TRAINING_LOG = "training.csv"
TRAINING = "training.json"
REPORT = "report.json"
REFERENCES = "reference_rules.json"
THRESHOLDS = "thresholds.json"
COMPARISON = "comparison.json"
DRIFT = "drift.json"
ADAPTATION = "adaptation.json"
CONFORMAL_TRAINING = "conformal_training.json"
EXPORT = "export.json"
ADAPTER_TENSORS = "adapter.safetensors"
PUBLICATION = "publish.json"
