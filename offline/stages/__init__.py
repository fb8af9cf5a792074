"""The stages of a night, one file each; a file ends in `STAGE = ...` and has the stage's name."""

# In order: each stage comes after those it needs.
STAGE_NAMES = (
    "splits",
    "adapt_domain",
    "race",
    "train_supervised",
    "train_conformal_risk",
    "export",
    "screen",
    "calibrate_scrc",
    "eval_selective",
    "publish",
    # They cost more than what they judge, and nothing that is published waits for them.
    "train_ablations",
    "compare_training",
)
