"""What is trained beside the model, to say what each step of its training gained."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from offline.config import RunConfig
from offline.data.originals import Copies
from offline.evaluation.training_comparison import VariantName
from offline.learning.challenge_views import ChallengeViews, certified_views
from offline.learning.conformal.train import choosing_of, train_conformal_risk
from offline.learning.predict import ImageSet, best_device, predict
from offline.learning.settings import TrainSettings
from offline.learning.supervised.train import Trainee, train_supervised
from offline.learning.training_views import training_views
from stage1.certificate.settings import CalibrationSettings
from stage1.model.adapters.attach import add_adapters, add_side_modules, merge_adapters
from stage1.model.backbones import build
from stage1.model.net import Stage1Net
from stage1.model.weights import load_weights
from stage1.outputs import Stage1Outputs

BASELINE_EPOCHS = 30
BASELINE_RATE = 1e-3


@dataclass(frozen=True)
class Weights:
    """What the run has trained.

    Attributes:
        supervised: after supervised training.
        final: after conformal risk training.
    """

    supervised: Path
    final: Path


@dataclass(frozen=True)
class Ablations:
    """Trains the variants of a run.

    Attributes:
        config: of the run.
        train: images that train.
        val_select: images that choose.
        test: images that are reported on.
        weights: of the run.
        checkpoints: directory from which a killed training goes on.
        cache: directory of what frozen blocks make of images.
        originals: directory of larger copies of pictures.
        progress: called with steps done, steps in all, and a note.
    """

    config: RunConfig
    train: ImageSet
    val_select: ImageSet
    test: ImageSet
    weights: Weights
    checkpoints: Path
    cache: Path
    originals: Path
    progress: Callable[[int, int, str], None]

    def run(self) -> dict[VariantName, tuple[Stage1Outputs, Stage1Outputs]]:
        """Train what the settings want beside the model; what each says of the test rows, and of val_select."""
        found = {}
        for name, make in self.variants().items():
            found[name] = self._outputs(make())
            # A training leaves cycles behind, and each holds a network.
            gc.collect()
        return found

    def variants(self) -> dict[VariantName, Callable[[], Stage1Net]]:
        """What trains each variant that the settings want; the model itself is the last."""
        config, wanted = self.config, self.config.compare_training
        nets: dict[VariantName, Callable[[], Stage1Net]] = {}
        if wanted.baseline:
            nets["baseline"] = self._baseline
        conformal = config.train_conformal_risk.enabled
        # An adapter to start from belongs to the adapted weights, and nothing else could start there. A teacher is
        # asked in the training of the model alone, so the difference would not be that of the adaptation.
        alone = config.train_supervised.warm_start is None and config.learn.teacher is None
        if wanted.adaptation and config.adapt_domain.enabled and alone:
            nets["unadapted"] = self._unadapted
        if conformal:
            nets["supervised"] = lambda: self._load(self.weights.supervised)
            if wanted.cross_entropy:
                nets["cross_entropy"] = self._cross_entropy
        nets["final"] = lambda: self._load(self.weights.final)
        return nets

    @property
    def _calibration(self) -> CalibrationSettings:
        """Without heads that must agree: not every variant has them."""
        return self.config.calibrate_scrc.model_copy(update={"agreement": ()})

    @property
    def _choosing(self) -> ImageSet:
        """What chooses a checkpoint: where conformal risk training is judged, the rows that do not judge it."""
        if not self.config.train_conformal_risk.enabled:
            return self.val_select
        return choosing_of(self.val_select, self.config.seed)

    def _outputs(self, net: Stage1Net) -> tuple[Stage1Outputs, Stage1Outputs]:
        """For the test rows and those of val_select, at the precision of the training: nothing is certified on them."""
        precision = self.config.train_supervised.precision
        return predict(net, self.test.images, precision), predict(net, self.val_select.images, precision)

    def _load(self, path: Path) -> Stage1Net:
        net = self._build()
        add_side_modules(net, self.config.model)
        load_weights(net, path)
        return net

    def _build(self, **changes: object) -> Stage1Net:
        model = self.config.model.model_copy(update=changes)
        seen = self.config.preprocess
        return build(model, shape=seen.shape, tiles=seen.tiles, seed=self.config.seed).to(best_device())

    def _baseline(self) -> Stage1Net:
        """A head on the frozen features of images as they are, by cross-entropy alone."""
        net = self._build(adapter="none", heads={}, multi_scale=False)
        add_adapters(net, self.config.model.model_copy(update={"adapter": "none"}))
        settings = TrainSettings(
            epochs=BASELINE_EPOCHS,
            batch_size=self.config.train_supervised.batch_size,
            learning_rate=BASELINE_RATE,
            precision=self.config.train_supervised.precision,
            augmentation="none",
            selection_weight=0.0,
            cache_views=1,
        )
        self._supervise(net, settings, "baseline")
        return net

    def _unadapted(self) -> Stage1Net:
        """The whole training on the backbone as it came."""
        net = self._build()
        add_adapters(net, self.config.model)
        self._supervise(net, self.config.train_supervised, "unadapted")
        merge_adapters(net)
        if self.config.train_conformal_risk.enabled:
            self._train_on(net, "unadapted_conformal")
        return net

    def _cross_entropy(self) -> Stage1Net:
        """The steps of conformal risk training without the risk."""
        net = self._load(self.weights.supervised)
        self._train_on(net, "cross_entropy", risk_weight=0.0, cross_entropy_weight=1.0)
        return net

    def _supervise(self, net: Stage1Net, settings: TrainSettings, name: str) -> None:
        heads = self.config.model.heads if net.named_heads else {}
        train_supervised(
            Trainee(net, self.train, self._choosing, heads, self._challenges),
            settings,
            self._calibration,
            seed=self.config.seed,
            progress=self._told(name),
            checkpoints=self.checkpoints / name,
            cache=self.cache,
        )

    def _train_on(self, net: Stage1Net, name: str, **changes: float) -> None:
        train_conformal_risk(
            net,
            self.train,
            self.val_select,
            self.config.train_conformal_risk.model_copy(update=changes),
            self._calibration,
            seed=self.config.seed,
            progress=self._told(name),
            challenges=certified_views(self.train.data, self.config.preprocess, self._calibration),
            checkpoints=self.checkpoints / name,
        )

    @cached_property
    def _challenges(self) -> ChallengeViews:
        config = self.config
        copies = Copies(self.originals, config.preprocess)
        kind = config.train_supervised.augmentation
        return training_views(self.train.data, config.preprocess, config.calibrate_scrc, kind, copies)

    def _told(self, name: str) -> Callable[[int, int, str], None]:
        return lambda done, total, note: self.progress(done, total, f"{name}: {note}")
