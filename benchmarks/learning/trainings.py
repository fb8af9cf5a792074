"""What the tasks do that train: heads on kept features, adapters behind frozen blocks, heads trained on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.learning.arena import Arena, Fold, Rows, Workplace
from benchmarks.learning.known import KnownFeatures, MultiScale, row_set, spread
from benchmarks.learning.methods import Method, Table
from benchmarks.learning.networks import PATCH_PX, Kept, backbone, make, train_settings
from benchmarks.learning.task import Meter, Result, Task
from offline.learning.conformal.train import train_conformal_risk
from offline.learning.predict import to_numpy
from offline.learning.settings import ConformalTrainingSettings
from offline.learning.supervised.train import Trainee, train_supervised
from stage1.model.net import Stage1Net
from stage1.outputs import Stage1Outputs

Features = NDArray[np.float32]
HEADS = ("class_head", "select_head")


@dataclass(frozen=True)
class Training:
    """One task that trains, over all folds.

    Attributes:
        place: of the run.
        table: of the method.
        arena: data.
        task: what to do.
        meter: measures it.
    """

    place: Workplace
    table: Table
    arena: Arena
    task: Task
    meter: Meter

    def run(self) -> Result:
        """Train every fold, keep what it answers, and say how it went."""
        torch.set_num_threads(1)
        method = self.table.method(self.task.what)
        folds = self.arena.folds
        if self.task.purpose == "tune" and len(folds) > 1:
            places = np.linspace(0, len(folds) - 1, self.place.scale.tuning_cities).round().astype(int)
            folds = tuple(folds[i] for i in places.tolist())
        work = {"heads": self._heads, "adapter": self._adapter, "continued": self._continued}[method.kind]
        answers = [self._answer(fold, *work(method, fold)) for fold in folds]
        result = self.meter.result(self.task.key, self.task.rate)
        columns = {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}
        np.savez(self.place.path(self.table.name, "answers", f"{self.task.key}.npz"), **columns)  # type: ignore[arg-type]
        return result

    def _heads(self, method: Method, fold: Fold) -> tuple[Stage1Net, Callable[[Rows], Features]]:
        features: Features = np.load(self.place.path(self.table.name, f"features_{method.features}.npy"))
        torch.manual_seed(self.task.seed)
        table = torch.from_numpy(features)
        net = KnownFeatures(table, self.arena.size_px)
        if method.multi_scale:
            net = MultiScale(table, self.arena.images(), PATCH_PX[self.table.name])
        train, val_select = (row_set(self.arena, rows) for rows in (fold.train, fold.val_select))
        self._supervise(method, Trainee(net, train, val_select))
        return net, lambda rows: net.features(torch.from_numpy(rows)).numpy()

    def _adapter(self, method: Method, fold: Fold) -> tuple[Stage1Net, Callable[[Rows], Features]]:
        directory = backbone(self.place, self.table.name, self.task.seed if method.adapted else None)
        net = make(method, directory, self.arena.size_px, self.task.seed)
        train, val_select = (self.arena.image_set(rows) for rows in (fold.train, fold.val_select))
        self._supervise(method, Trainee(net, train, val_select))
        kept = Kept(self.arena, self.place.path(self.table.name, "cache"), self.meter)
        if self.table.continues(method.name):
            self._keep(fold, net, kept)
        return net, lambda rows: kept.features(net, rows)

    def _supervise(self, method: Method, trainee: Trainee) -> None:
        settings = train_settings(self.place, self.table.name, method, self.task.rate)
        with self.meter.running():
            outcome = train_supervised(
                trainee,
                settings,
                self.arena.calibration,
                seed=self.task.seed,
                progress=self.meter.tell,
                cache=self.place.path(self.table.name, "cache"),
            )
        self.meter.scores.append(astuple(outcome.score))

    def _keep(self, fold: Fold, net: Stage1Net, kept: Kept) -> None:
        """Keep features and heads for the rows of the table that train on from here."""
        rows = np.concatenate([fold.train, fold.val_select, fold.held])
        heads = {
            f"{name}.{part}": tensor.numpy()
            for name in HEADS
            for part, tensor in getattr(net, name).state_dict().items()
        }
        path = self.place.path(self.table.name, "starts", f"{self.task.key}.{fold.name}.npz")
        np.savez(path, rows=rows, features=kept.features(net, rows), **heads)

    def _continued(self, method: Method, fold: Fold) -> tuple[Stage1Net, Callable[[Rows], Features]]:
        start = np.load(self.place.path(self.table.name, "starts", f"{self.task.start}.{fold.name}.npz"))
        table = spread(start["rows"], start["features"], len(self.arena.data))
        net = KnownFeatures(table, self.arena.size_px)
        for name in HEADS:
            state = {k.removeprefix(f"{name}."): torch.from_numpy(v) for k, v in start.items() if k.startswith(name)}
            getattr(net, name).load_state_dict(state)
        settings = ConformalTrainingSettings(steps=self.place.scale.steps, learning_rate=self.task.rate)
        with self.meter.running():
            _, score = train_conformal_risk(
                net,
                row_set(self.arena, fold.train),
                row_set(self.arena, fold.val_select),
                settings.model_copy(update=dict(method.risk)),
                self.arena.calibration,
                seed=self.task.seed,
                progress=self.meter.tell,
            )
        self.meter.scores.append(astuple(score))
        return net, lambda rows: table[torch.from_numpy(rows)].numpy()

    @torch.no_grad()
    def _answer(
        self, fold: Fold, net: Stage1Net, features: Callable[[Rows], Features]
    ) -> dict[str, NDArray[np.generic]]:
        """What the network says of the rows that chose, and of those that were held out."""
        net.eval()
        found: dict[str, NDArray[np.generic]] = {}
        for name, rows in (("select", fold.val_select), ("held", fold.held)):
            outputs: Stage1Outputs = to_numpy(net.outputs(torch.from_numpy(features(rows))))
            found |= {f"{name}_rows": rows, f"{name}_logits": outputs.logits, f"{name}_score": outputs.select_score}
        return found
