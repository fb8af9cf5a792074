"""How often a certificate on challenges is wrong: models of their own scenes, each certified and judged on fresh ones.

    python -m benchmarks.violations --kept directory                       # twenty models take hours; it goes on there
    python -m benchmarks.violations --kept directory --alpha 0.05 0.10

Each repetition draws its own scenes, splits them, trains on them and certifies on the mixture of challenges. All rules
are then judged on the same fresh scenes, which nothing has seen. Columns: misses / exited roadwork by the unit of the
certificate on val_calib, which certifies, and on test and the fresh scenes; and the chance of so many misses or more
there if the risk were alpha. A certificate is called wrong if this chance is below 5 %. By its promise that is true of
at most one certificate in sixty, and of another twentieth of those whose risk is alpha exactly, by chance.

The outputs are kept as arrays, so that other alphas are answered at once.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from contextlib import closing
from pathlib import Path

import numpy as np
from scipy.stats import binom

from benchmarks.streams import Judge, add_training, drawn, trained
from engines.backends.registry import open_engine
from engines.spec import EngineSpec
from engines.store.file_names import ENGINE, PREPROCESS, SPEC, SPLITS
from offline.data.sources.source import read_dataset
from offline.evaluation.stream_cells import judge_cell
from offline.splits.splits_file import Splits
from offline.stream.sender import StreamSender
from stage1.certificate.calibrate import CalibrationContext, calibrate
from stage1.certificate.labelled_outputs import LabelledOutputs
from stage1.certificate.settings import CalibrationSettings
from stage1.outputs import Stage1Outputs
from stage1.policy import ScrcPolicy
from stage1.preprocess import PreprocessSettings

FRESH_SEED = 9_001
NAMES = ("val_select", "val_calib", "test", "fresh")
WRONG_BELOW = 0.05
Found = dict[str, LabelledOutputs]


def outputs_of(seed: int, fresh: Path, options: argparse.Namespace) -> Found:
    """What a model of its own says of its val_select, val_calib and test, and of the fresh scenes."""
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        scenes = drawn(home / "scenes", options.scenes, seed)
        run = trained(scenes, home, options, seed)
        data, splits = read_dataset(scenes), Splits.read(run / SPLITS)
        sets = {name: splits.dataset(data, name) for name in ("val_select", "val_calib", "test")}
        with closing(open_engine(EngineSpec.read(run / SPEC), run / ENGINE)) as engine:
            judge = Judge(engine, PreprocessSettings.read(run / PREPROCESS))
            sender = StreamSender("mixture", seed=seed)
            return {name: judge.outputs(rows, sender) for name, rows in {**sets, "fresh": read_dataset(fresh)}.items()}


def keep(path: Path, found: Found) -> None:
    """Write outputs, all or nothing."""
    arrays: dict[str, np.ndarray] = {}
    for name, said in found.items():
        arrays |= {
            f"{name}.logits": said.outputs.logits,
            f"{name}.select_score": said.outputs.select_score,
            f"{name}.labels": said.labels,
            f"{name}.rows": np.asarray(said.row_ids),
            f"{name}.groups": np.asarray(said.groups),
        }
    part = path.with_suffix(".part.npz")
    np.savez_compressed(part, allow_pickle=False, **arrays)
    part.replace(path)


def kept(path: Path) -> Found:
    with np.load(path, allow_pickle=False) as arrays:
        return {
            name: LabelledOutputs(
                Stage1Outputs(arrays[f"{name}.logits"], arrays[f"{name}.select_score"]),
                arrays[f"{name}.labels"],
                arrays[f"{name}.rows"].tolist(),
                arrays[f"{name}.groups"].tolist(),
            )
            for name in NAMES
        }


def judged(found: dict[int, Found], alpha: float) -> None:
    """Print one line for each model, and what came of all."""
    settings = CalibrationSettings(alpha=alpha, unit="group", false_alarm_rate=0.05, stream="mixture")
    context = CalibrationContext("0" * 64, "0" * 64, stream="mixture")
    totals = np.zeros((2, 2), np.intp)
    wrong, trials = 0, []
    print(
        f"\nalpha {alpha:.0%}\nmodel  {'val_calib':>10}  {'test, fresh':>12}  {'risk':>7}  {'chance':>7}  {'exits':>6}"
    )
    for seed, own in found.items():
        params = calibrate(own["val_select"], own["val_calib"], settings, context)
        if params.rule is None:
            print(f"{seed:>5}  {params.status}: {params.reason}")
            continue
        certified, test, fresh = (judge_cell(name, own[name], ScrcPolicy(params), params) for name in NAMES[1:])
        events, exited = (getattr(test.misses, name) + getattr(fresh.misses, name) for name in ("events", "trials"))
        chance = float(binom.sf(events - 1, exited, alpha))
        wrong += chance < WRONG_BELOW
        trials.append(exited)
        totals += [[certified.misses.events, certified.misses.trials], [events, exited]]
        print(
            f"{seed:>5}  {f'{certified.misses.events}/{certified.misses.trials}':>10}  {f'{events}/{exited}':>12}"
            f"  {events / exited:>7.2%}  {chance:>7.3f}  {fresh.exits.estimate or 0:>6.3f}"
        )
    if not trials:
        return
    (calib, calib_exited), (events, exited) = totals.tolist()
    print(f"all    {f'{calib}/{calib_exited}':>10}  {f'{events}/{exited}':>12}  {events / exited:>7.2%}")
    print(f"{wrong} of {len(trials)} certificates wrong. {power(alpha, round(float(np.mean(trials))), len(trials))}")


def power(alpha: float, exited: int, models: int) -> str:
    """What so many judgements would have shown."""
    limit = int(binom.isf(WRONG_BELOW, exited, alpha)) + 1
    seen = [float(binom.sf(limit - 1, exited, risk)) for risk in (1.5 * alpha, 2 * alpha)]
    share = 1 - 0.05 ** (1 / models)
    return (
        f"Power: a certificate of risk {1.5 * alpha:.1%} is called wrong with chance {seen[0]:.2f}, one of risk "
        f"{2 * alpha:.1%} with chance {seen[1]:.2f}; if {share:.0%} of all certificates were called wrong, none among "
        "so many would be seen one time in twenty."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=20, help="models, with scenes of seeds 0, 1, ...")
    parser.add_argument("--kept", type=Path, required=True, help="directory of outputs; what is there is not run again")
    parser.add_argument("--fresh", type=int, default=1600, help="scenes to judge")
    parser.add_argument("--alpha", type=float, nargs="+", default=[0.02])
    add_training(parser)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    options.kept.mkdir(parents=True, exist_ok=True)
    found = {}
    with tempfile.TemporaryDirectory() as name:
        fresh = Path(name) / "fresh"
        for seed in range(options.repetitions):
            path = options.kept / f"{seed}.npz"
            if not path.exists():
                if not fresh.exists():
                    drawn(fresh, options.fresh, FRESH_SEED)
                keep(path, outputs_of(seed, fresh, options))
                print(f"{seed + 1} of {options.repetitions} models", flush=True)
            found[seed] = kept(path)
    for alpha in options.alpha:
        judged(found, alpha)


if __name__ == "__main__":
    main()
