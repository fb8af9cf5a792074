"""The base class of detectors of the reference miner, made anew from what its subclasses see of it, without torch.

Tests copy this file to `base_miner/detectors/__init__.py` or `natix/miner/detectors/__init__.py`.
"""

import contextlib
from abc import ABC, abstractmethod
from pathlib import Path

import yaml


class FeatureDetector(ABC):
    def __init__(self, model_name, config_name=None, device="cpu"):
        self.model_name = model_name
        self.device = device
        if config_name:
            self.set_class_attrs(config_name)
            self.load_model_config()
        self.load_model()

    @abstractmethod
    def load_model(self): ...

    @abstractmethod
    def __call__(self, image): ...

    def set_class_attrs(self, detector_config):
        here = Path(__file__).resolve().parent / "configs" / detector_config
        path = Path(detector_config) if Path(detector_config).exists() else here
        for key, value in yaml.safe_load(path.read_text()).items():
            setattr(self, key, value)

    def load_model_config(self):
        # It downloads a file of this name from the hub, and goes on whatever happens.
        with contextlib.suppress(Exception):
            self.config = (self.hf_repo, self.config_name)
