"""Trainings that hold a fold out, for the race; what they see is given to them, and is never val_calib or test."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from engines.machine.clock import utc_now
from offline.config import RunConfig
from offline.data.dataset import Dataset
from offline.data.originals import Copies
from offline.errors import TrainingError, TrainingInterrupted
from offline.learning.challenge_views import certified_views
from offline.learning.checkpoints import Trained
from offline.learning.conformal.train import choosing_of, train_conformal_risk
from offline.learning.predict import ImageSet, predict
from offline.learning.race.units import Unit, UnitOutcome
from offline.learning.supervised.train import Trainee, train_supervised
from offline.learning.training_views import training_views
from offline.pipeline.progress import Silence
from offline.pipeline.run_files import BACKBONE
from offline.pipeline.settings_view import overridden
from offline.stages.common.network import images_of, network_of
from offline.stream.sender import sender_of
from stage1.artifacts import sha256_json
from stage1.errors import CalibrationError, ModelError, OutputsError
from stage1.model.adapters.attach import add_adapters, merge_adapters
from stage1.model.net import Stage1Net
from stage1.model.weights import load_weights
from stage1.outputs import Stage1Outputs
from stage1.probability.calibrator import AffineCalibrator, log_softmax
from stage1.probability.fit import PENALTIES, fit_affine

if TYPE_CHECKING:
    from offline.stages.common.context import Context


@dataclass(frozen=True)
class Shown:
    """Rows of train and val_select with their pictures.

    Attributes:
        decides: hash of what the pictures depend on beside the rows.
        plain: as they are, for training.
        sent: as validators send them, for choosing and holding out.
    """

    decides: str
    plain: ImageSet
    sent: ImageSet


class FoldTrainings:
    """Does one unit of the race: trains on all folds but two, of which one chooses and one is held out.

    The fold after the one that is held out chooses the checkpoint and fits the calibrator, as val_select and val_calib
    do for the model that ships. Recipes that differ in how the heads train on share a supervised training; one without
    conformal training has its own, because there all rows of that fold choose.

    Args:
        context: of the stage; trainings that are under way are kept in its checkpoints.
        rows: rows of train and val_select that are held out in their turn, N of them.
        folds: fold of each, `(N,)`.
        only_train: rows that train in every fold and are held out in none.
        told: called with steps done, steps in all, and a note.
    """

    def __init__(
        self,
        context: Context,
        rows: Dataset,
        folds: NDArray[np.intp],
        only_train: Dataset,
        told: Callable[[int, int, str], None],
    ) -> None:
        self._context, self._told = context, told
        self._count = int(folds.max()) + 1
        self._rows = replace(rows, rows=(*rows.rows, *only_train.rows))
        self._held = np.append(folds, np.full(len(only_train), -1))
        self._shown: Shown | None = None

    def __call__(self, unit: Unit) -> UnitOutcome:
        """Train, and answer for the rows that were held out; a recipe that cannot be trained is an outcome, too.

        Raises:
            TrainingInterrupted: the process was told to end; a checkpoint is written.
        """
        now, place = self._context.now, self._context.checkpoints / "trainings" / unit.key
        started, failed = now(), ""
        log_odds: tuple[float, ...] = ()
        try:
            log_odds = self._log_odds(unit, place)
        except TrainingInterrupted:
            raise
        except (TrainingError, ModelError, OutputsError) as error:
            # The last step of a training may be the one that leads to no number.
            failed = str(error)
        shutil.rmtree(place, ignore_errors=True)
        return UnitOutcome(
            recipe=unit.recipe,
            share=unit.share,
            fold=unit.fold,
            seed=unit.seed,
            log_odds=log_odds,
            failed=failed,
            seconds=(now() - started).total_seconds(),
        )

    def _log_odds(self, unit: Unit, place: Path) -> tuple[float, ...]:
        config = self._config(unit)
        context = replace(self._context, config=config)
        chooses = (unit.fold + 1) % self._count
        shown = self._pictures(context)
        train = shown.plain.pick(np.flatnonzero((self._held != unit.fold) & (self._held != chooses)))
        select, held_out = (shown.sent.pick(np.flatnonzero(self._held == fold)) for fold in (chooses, unit.fold))
        net = network_of(context, trained=False)
        adapted = context.inputs["adapt_domain"] / BACKBONE
        if config.adapt_domain.enabled and adapted.exists():
            load_weights(net.backbone, adapted)
        add_adapters(net, config.model)
        self._supervise(net, train, select, context, unit, place)
        merge_adapters(net)
        if config.train_conformal_risk.enabled:
            train_conformal_risk(
                net,
                train,
                select,
                config.train_conformal_risk,
                config.calibrate_scrc,
                seed=unit.seed,
                progress=self._told,
                challenges=certified_views(train.data, config.preprocess, config.calibrate_scrc),
                checkpoints=place / "conformal",
            )
        calibrator = _calibrator(predict(net, select.images), select.data.labels)
        return tuple(_calibrated(calibrator, predict(net, held_out.images)).tolist())

    def _config(self, unit: Unit) -> RunConfig:
        config = overridden(self._context.config, unit.overrides)
        whole = config.train_supervised
        lengths = {
            "epochs": max(1, round(whole.epochs * unit.share)),
            "least_steps": round(whole.least_steps * unit.share),
        }
        return overridden(config, {f"train_supervised.{name}": value for name, value in lengths.items()})

    def _supervise(
        self, net: Stage1Net, train: ImageSet, select: ImageSet, context: Context, unit: Unit, place: Path
    ) -> None:
        """Train adapter and heads, or take what another recipe trained in the same way."""
        config = context.config
        decides = config.model_dump(mode="json", exclude={"train_conformal_risk", "learn", "compare_training"})
        heads_train_on = config.train_conformal_risk.enabled
        key = sha256_json([decides, heads_train_on, unit.fold, unit.seed])[:16]
        kept, trained = context.checkpoints / "adapters" / f"{key}.safetensors", Trained(net=net)
        if not kept.exists():
            # The other half judges whether heads that train on from here replace these.
            chooses = choosing_of(select, unit.seed) if heads_train_on else select
            challenges = training_views(
                train.data,
                config.preprocess,
                config.calibrate_scrc,
                config.train_supervised.augmentation,
                Copies(context.originals, config.preprocess),
                self._told,
            )
            train_supervised(
                Trainee(net, train, chooses, config.model.heads, challenges),
                config.train_supervised,
                config.calibrate_scrc,
                seed=unit.seed,
                progress=self._told,
                checkpoints=place / "supervised",
                cache=context.prefixes,
            )
            kept.parent.mkdir(parents=True, exist_ok=True)
            partial = kept.with_suffix(".partial")
            save_file({name: tensor.cpu().contiguous() for name, tensor in trained.state_dict().items()}, partial)
            partial.replace(kept)
        # Also what was trained just now, so that a shared training and one's own give the same numbers.
        trained.load_state_dict(load_file(kept))
        torch.manual_seed(unit.seed)

    def _pictures(self, context: Context) -> Shown:
        """The pictures of all rows; those of the last recipe if they are the same."""
        calibration, preprocess = context.config.calibrate_scrc, context.config.preprocess
        about = [preprocess.model_dump(mode="json"), calibration.model_dump(mode="json")]
        decides = sha256_json(about)
        if self._shown is None or self._shown.decides != decides:
            self._shown = None
            sent = self._rows.sent_by(sender_of(calibration))
            self._shown = Shown(decides, images_of(context, self._rows), images_of(context, sent))
        return self._shown

    def __getstate__(self) -> dict[str, object]:
        """Without pictures and without a terminal, for a process elsewhere."""
        return self.__dict__ | {
            "_shown": None,
            "_told": _tell_nobody,
            "_context": replace(self._context, progress=Silence(), now=utc_now),
        }


def _tell_nobody(_done: int, _total: int, _note: str) -> None:
    pass


def _calibrator(outputs: Stage1Outputs, labels: NDArray[np.int8]) -> AffineCalibrator:
    """Fitted on the rows that choose; the identity where they show one class only."""
    try:
        return fit_affine("dirichlet", outputs.logits, labels, PENALTIES["dirichlet"])
    except CalibrationError:
        return AffineCalibrator.identity(2)


def _calibrated(calibrator: AffineCalibrator, outputs: Stage1Outputs) -> NDArray[np.float64]:
    """Log-odds of roadwork, float64 `(N,)`; finite where a probability would be 0."""
    log_p, (of_one, of_zero, shift) = log_softmax(outputs.logits), calibrator.slopes
    log_odds: NDArray[np.float64] = of_one * log_p[:, 1] - of_zero * log_p[:, 0] + shift
    return log_odds
