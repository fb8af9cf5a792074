"""Settings of compiling an engine."""

from __future__ import annotations

from stage1.settings import Section


class CompileSettings(Section):
    """How an engine is compiled.

    Attributes:
        refittable: of TensorRT, whether a miner may put the next night's weights into the engine that stands by, in
            place of loading another one; may cost speed.
    """

    refittable: bool = False
