"""The registry of detectors of the reference miner, made anew from what its callers see of it.

Tests copy this file to `base_miner/registry.py` or `natix/miner/registry.py`.
"""


class Registry:
    def __init__(self):
        self.data = {}

    def register_module(self, module_name=None):
        def enter(module):
            self.data[module_name or module.__name__] = module
            return module

        return enter

    def __getitem__(self, key):
        return self.data[key]

    def __contains__(self, key):
        return key in self.data


DETECTOR_REGISTRY = Registry()
