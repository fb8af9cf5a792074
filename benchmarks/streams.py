"""What a certified rule does when pictures arrive as validators sent them, era by era and level by level.

    python -m benchmarks.streams                                  # draws scenes and trains; fresh scenes are judged
    python -m benchmarks.streams --data roads                     # trains on these rows; their test rows are judged
    python -m benchmarks.streams --data roads --run DIRECTORY     # with the model of a run, or of a bundle

One model, and two certificates of it: one on originals, and one on the mixture of the three eras. Both rules then see
the same rows in every way by itself, with draws that no certificate has seen. A cell shows misses / exited roadwork and
the upper Clopper-Pearson bound of their rate at confidence 1 - delta, counted by the unit of the certificate. Where
nothing can be certified, this is said, and a rule at `--loose` by image stands in, which describes these rows and
promises nothing.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from scipy.stats import rankdata

from engines.backends.registry import open_engine
from engines.engine import Engine
from engines.spec import EngineSpec
from engines.store.bundle import certified_sha256_of
from engines.store.file_names import ENGINE, PREPROCESS, SPEC, SPLITS
from offline.config import load_config
from offline.data.dataset import Dataset, Sender
from offline.data.engine_outputs import run_engine
from offline.data.sources.source import read_dataset
from offline.data.sources.synthetic_streets import write_scenes
from offline.evaluation.stream_cells import judge_cell
from offline.night import run_night
from offline.splits.splits_file import Splits
from offline.stream.sender import StreamSender, every_sender, sender_of
from stage1.certificate.calibrate import CalibrationContext, calibrate
from stage1.certificate.labelled_outputs import LabelledOutputs
from stage1.certificate.params import ScrcParams
from stage1.certificate.risks import Rate
from stage1.certificate.settings import CalibrationSettings
from stage1.certificate.statistics.percent import at_most
from stage1.certificate.stream import Stream
from stage1.policy import ScrcPolicy
from stage1.preprocess import PreprocessSettings

FRESH_SEED = 9_001
STREAMS: tuple[Stream, ...] = ("originals", "mixture")


def trained(data: Path, home: Path, options: argparse.Namespace, seed: int = 0) -> Path:
    """The run of a night that ends with a certificate."""
    rows = len(read_dataset(data))
    changes = {
        "seed": seed,
        "preprocess.size_px": options.size,
        "train_supervised.epochs": max(2, min(20, round(options.exposures / (0.42 * rows)))),
        "train_supervised.batch_size": 32,
        "train_supervised.learning_rate": 5e-3,
        "splits.hash_distance": None,
    }
    config = load_config("tiny", None, changes)
    now = lambda: datetime.now(UTC)  # noqa: E731
    return run_night(data, workspace=home / "w", store=home / "s", config=config, last="calibrate_scrc", now=now).run


def drawn(directory: Path, scenes: int, seed: int) -> Path:
    """A directory of synthetic scenes."""
    for _ in write_scenes(directory, scenes=scenes, seed=seed):
        pass
    return directory


class Judge:
    """One engine, and rows that are sent to it."""

    def __init__(self, engine: Engine, preprocess: PreprocessSettings) -> None:
        self.engine, self.preprocess = engine, preprocess

    def outputs(self, rows: Dataset, sender: Sender) -> LabelledOutputs:
        return run_engine(self.engine, rows.sent_by(sender), self.preprocess, lambda *_: None, "")


def certified(
    judge: Judge, sets: tuple[Dataset, Dataset], settings: CalibrationSettings, engine_sha256: str
) -> ScrcParams:
    sender = sender_of(settings)
    select, calib = (judge.outputs(rows, sender) for rows in sets)
    context = CalibrationContext(engine_sha256, judge.preprocess.sha256, stream=sender.stream)
    return calibrate(select, calib, settings, context)


def auc(found: LabelledOutputs) -> float:
    """Chance that a picture with roadwork scores above one without."""
    ranks = rankdata(found.outputs.roadwork_score)
    positives = int(found.labels.sum())
    pairs = positives * (len(found) - positives)
    return float((ranks[found.positive].sum() - positives * (positives + 1) / 2) / pairs)


def told(rate: Rate) -> str:
    return f"{rate.events}/{rate.trials} {at_most(rate.upper):>6}" if rate.trials else "none exits"


def table(judge: Judge, rows: Dataset, rules: dict[Stream, ScrcParams]) -> None:
    senders = every_sender(FRESH_SEED) | {"mixture": StreamSender("mixture", seed=FRESH_SEED)}
    unit = next(iter(rules.values())).unit
    heads = "".join(f" | {f'rule of {name}':^44}" for name in rules)
    columns = "".join(f" | {'misses / exited, bound':>24} {'exits':>7} {'alarms':>11}" for _ in rules)
    print(f"\n{len(rows)} images, unit {unit}\n{'':<28} {'':>5}{heads}\n{'sent as':<28} {'AUC':>5}{columns}")
    for name, sender in senders.items():
        found = judge.outputs(rows, sender)
        line = f"{name:<28} {auc(found):.3f}"
        for params in rules.values():
            cell = judge_cell(name, found, ScrcPolicy(params), params)
            exits = f"{cell.exits.estimate or 0:.3f}"
            line += (
                f" | {told(cell.misses):>24} {exits:>7} {f'{cell.false_alarms.events}/{cell.false_alarms.trials}':>11}"
            )
        print(line, flush=True)


def show(run: Path, data: Dataset, judged: Dataset | None, options: argparse.Namespace) -> None:
    splits = Splits.read(run / SPLITS)
    spec = EngineSpec.read(run / SPEC)
    sets = splits.dataset(data, "val_select"), splits.dataset(data, "val_calib")
    rows = splits.dataset(data, "test") if judged is None else judged
    with closing(open_engine(spec, run / ENGINE)) as engine:
        judge = Judge(engine, PreprocessSettings.read(run / PREPROCESS))
        digest = certified_sha256_of(run, spec)
        base = CalibrationSettings(alpha=options.alpha, unit=options.unit, false_alarm_rate=0.05)
        rules = {}
        for stream in STREAMS:
            params = certified(judge, sets, base.model_copy(update={"stream": stream}), digest)
            print(f"\n{stream}: {params.status}. {params.statement if params.rule else params.reason}")
            if params.rule is None:
                # It describes these rows and promises nothing, so that they depend on each other does not matter.
                loose = {"stream": stream, "alpha": options.loose, "unit": "row", "spending": "single_use"}
                loose |= {"allow_row_unit": True}
                params = certified(judge, sets, base.model_copy(update=loose), digest)
                print(
                    f"  stands in, at {options.loose:.0%} by image, as a description: {params.status}. {params.reason}"
                )
            rules[stream] = params
        table(judge, rows, rules)


def add_training(parser: argparse.ArgumentParser) -> None:
    """Options of `trained`, and how many scenes it gets."""
    parser.add_argument("--scenes", type=int, default=3600, help="synthetic scenes to draw")
    parser.add_argument("--size", type=int, default=128, help="side of what the engine sees, px")
    parser.add_argument("--exposures", type=int, default=7_000, help="images that training sees")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="directory with labels.csv; synthetic scenes without it")
    parser.add_argument("--run", type=Path, help="directory of a run or a bundle on --data; trains one without it")
    parser.add_argument("--fresh", type=int, default=1600, help="synthetic scenes to judge, where scenes are drawn")
    add_training(parser)
    parser.add_argument("--alpha", type=float, default=0.02)
    parser.add_argument("--unit", default="group", choices=["group", "row"])
    parser.add_argument("--loose", type=float, default=0.10, help="level of the rule that describes")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        directory = options.data or drawn(home / "scenes", options.scenes, 0)
        run = options.run or trained(directory, home, options)
        data = read_dataset(directory)
        synthetic = {row.source for row in data.rows} == {"synthetic"}
        judged = read_dataset(drawn(home / "fresh", options.fresh, FRESH_SEED)) if synthetic else None
        show(run, data, judged, options)


if __name__ == "__main__":
    main()
