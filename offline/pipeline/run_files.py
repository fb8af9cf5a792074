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
# Not from `stage1.model.adapters.attach`, which would bring torch with it.
ADAPTER_TENSORS = "adapter.safetensors"
PUBLICATION = "publish.json"
