"""What Stage-1 is: outputs, policies, certificates, metrics, model."""

from typing import TYPE_CHECKING

from stage1.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from stage1.certificate.calibrate import CalibrationContext, calibrate
    from stage1.certificate.labelled_outputs import LabelledOutputs
    from stage1.certificate.params import ScrcParams
    from stage1.certificate.risks import Rate, Risk
    from stage1.certificate.settings import CalibrationSettings
    from stage1.decisions import Action, Decisions, Level
    from stage1.errors import CascadeError, SettingsError, Stage1Error
    from stage1.exit_rule import ExitRule
    from stage1.outputs import Stage1Outputs
    from stage1.policy import Policy, ScrcPolicy
    from stage1.preprocess import PreprocessSettings
    from stage1.probability.calibrator import ProbabilityCalibrator

__all__ = [
    "Action",
    "CalibrationContext",
    "CalibrationSettings",
    "CascadeError",
    "Decisions",
    "ExitRule",
    "LabelledOutputs",
    "Level",
    "Policy",
    "PreprocessSettings",
    "ProbabilityCalibrator",
    "Rate",
    "Risk",
    "ScrcParams",
    "ScrcPolicy",
    "SettingsError",
    "Stage1Error",
    "Stage1Outputs",
    "calibrate",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "Action": "stage1.decisions",
            "CalibrationContext": "stage1.certificate.calibrate",
            "CalibrationSettings": "stage1.certificate.settings",
            "CascadeError": "stage1.errors",
            "Decisions": "stage1.decisions",
            "ExitRule": "stage1.exit_rule",
            "LabelledOutputs": "stage1.certificate.labelled_outputs",
            "Level": "stage1.decisions",
            "Policy": "stage1.policy",
            "PreprocessSettings": "stage1.preprocess",
            "ProbabilityCalibrator": "stage1.probability.calibrator",
            "Rate": "stage1.certificate.risks",
            "Risk": "stage1.certificate.risks",
            "ScrcParams": "stage1.certificate.params",
            "ScrcPolicy": "stage1.policy",
            "SettingsError": "stage1.errors",
            "Stage1Error": "stage1.errors",
            "Stage1Outputs": "stage1.outputs",
            "calibrate": "stage1.certificate.calibrate",
        },
    )
