"""A training that was interrupted ends as one that was not, bit for bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from engines.store.store import Store
from offline.config import RunConfig
from offline.data.dataset import Dataset, Row
from offline.data.originals import Copies, originals_of
from offline.errors import TrainingError, TrainingInterrupted
from offline.learning.checkpoints import FILE, Checkpoints, Randomness, Trained
from offline.learning.conformal.train import train_conformal_risk
from offline.learning.distillation.soft_labels import SoftLabels
from offline.learning.predict import ImageSet
from offline.learning.row_order import batches, epoch_order
from offline.learning.self_distillation.adapt import adapt_domain
from offline.learning.self_distillation.judge import Judge
from offline.learning.self_distillation.pictures import Unshrunk
from offline.learning.settings import AdaptSettings, ConformalTrainingSettings, TrainSettings
from offline.learning.supervised.train import Trainee, train_supervised
from offline.learning.training_views import training_views
from offline.pipeline.progress import Silence
from offline.pipeline.reads import Reads
from offline.pipeline.runner import CHECKPOINT_DAYS, PIXELS_KEPT, Pipeline
from offline.pipeline.stage import Stage, StageContext
from stage1.certificate.settings import CalibrationSettings
from stage1.model.adapters.attach import add_adapters
from stage1.model.backbones import build
from stage1.model.net import Stage1Net
from stage1.model.settings import ModelSettings, PretrainedBackbone, RandomBackbone
from stage1.preprocess import PreprocessSettings
from tests.support.challenges import SquareChallenges

SIZE_PX = 32
MODEL = ModelSettings(backbone=RandomBackbone(hidden=32, layers=2, heads=2, patch_px=8), last_layers=None, rank=4)
CALIBRATION = CalibrationSettings(alpha=0.1, unit="row", grid_size=30, gate_size=5)
ROWS, BATCH, EPOCHS = 48, 8, 3
STEPS = EPOCHS * ROWS // BATCH
# Each optimiser with other things that have a state.
RECIPES: dict[str, dict[str, Any]] = {
    "adamw": {"augmentation": "strong", "balance": "batches"},
    "lion": {
        "learning_rate": 1e-3,
        "ema_decay": 0.9,
        "gradient_checkpointing": True,
        "precision": "bf16",
        "selection": "selectivenet",
        "layer_decay": 0.8,
        "auxiliary_weight": 0.5,
    },
    "fsam": {
        "accumulation": 2,
        "ema_decay": 0.8,
        "precision": "fp16",
        "augmentation": "validators",
        "label_smoothing": 0.1,
        "balance": "logits",
    },
    "merged": {
        "optimiser": "fsam",
        "fsam": {"form": "merged", "rho": 0.2},
        "ema_decay": "auto",
        "least_steps": 18,
        "judgements": 2,
    },
}
Tell = Callable[[int, int, str], None]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Directory of a backbone with weights."""
    directory = tmp_path_factory.mktemp("backbone")
    build(MODEL, shape=(SIZE_PX, SIZE_PX), seed=0).backbone.save_pretrained(directory)  # type: ignore[operator]
    return str(directory)


def net(adapters: bool = True) -> Stage1Net:
    made = build(MODEL, shape=(SIZE_PX, SIZE_PX), seed=0)
    if adapters:
        add_adapters(made, MODEL)
    # Something that draws from torch's own generator in every step.
    made.class_head = nn.Sequential(made.class_head, nn.Dropout(0.1)) if adapters else made.class_head
    return made


def coloured(count: int, seed: int) -> ImageSet:
    """Images that are roadwork if and only if they are reddish, a third of them."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(count) < 0.34).astype(int)
    pixels = rng.integers(0, 120, (count, 3, SIZE_PX, SIZE_PX))
    pixels[:, 0] += 120 * labels[:, None, None]
    rows = tuple(Row(image=f"{seed}/{n}", label=int(y), group=f"{seed}/{n}") for n, y in enumerate(labels))
    return ImageSet(pixels.astype(np.uint8), Dataset(Path("nowhere"), rows))


def silent(_done: int, _total: int, _note: str) -> None:
    """Say nothing."""


def recipe(kind: str, **changes: Any) -> TrainSettings:
    common = {"epochs": EPOCHS, "batch_size": BATCH, "learning_rate": 3e-3, "optimiser": kind, "checkpoint_steps": 4}
    return TrainSettings.model_validate(common | RECIPES[kind] | changes)


def supervised(kind: str, place: Path | None, tell: Tell = silent, **changes: Any) -> Stage1Net:
    made = net()
    sets = coloured(ROWS, 1), coloured(64, 2)
    trainee = Trainee(made, *sets, challenges=SquareChallenges(sets[0].images))
    train_supervised(trainee, recipe(kind, **changes), CALIBRATION, seed=0, progress=tell, checkpoints=place)
    return made


def taught(_: str, place: Path | None, tell: Tell = silent) -> Stage1Net:
    """By a teacher as well, who says nothing of some rows, while others have no label."""
    made, rng = net(), np.random.default_rng(5)
    said = np.where(rng.random(ROWS) < 0.2, np.nan, rng.random(ROWS))
    soft = SoftLabels(said, rng.random(ROWS) < 0.8, temperature=2.0, weight=0.5)
    sets = coloured(ROWS, 1), coloured(64, 2)
    trainee = Trainee(made, *sets, challenges=SquareChallenges(sets[0].images), taught=soft)
    train_supervised(trainee, recipe("adamw"), CALIBRATION, seed=0, progress=tell, checkpoints=place)
    return made


def behind_frozen_blocks(backbone: str, place: Path | None, tell: Tell = silent) -> Stage1Net:
    """From what the first of two blocks made of the images; the backbone has weights of its own on disk."""
    model = MODEL.model_copy(
        update={"backbone": PretrainedBackbone(name=backbone), "last_layers": 1, "adapter": "doran"}
    )
    made = build(model, shape=(SIZE_PX, SIZE_PX), seed=0)
    add_adapters(made, model)
    settings = recipe("adamw", cache="on", cache_views=2)
    sets = coloured(ROWS, 1), coloured(64, 2)
    trainee = Trainee(made, *sets, challenges=SquareChallenges(sets[0].images))
    with TemporaryDirectory() as kept:
        cache = Path(kept) if place is None else place / "prefixes"

        # What is kept beforehand is told too, and is no step.
        def told(done: int, total: int, note: str) -> None:
            if "keeping" not in note:
                tell(done, total, note)

        train_supervised(trainee, settings, CALIBRATION, seed=0, progress=told, checkpoints=place, cache=cache)
    return made


ADAPTATIONS: dict[str, dict[str, Any]] = {
    "in parts": {"gradient_checkpointing": True, "accumulation": 3},
    "everything": {"unfrozen_blocks": None, "gram_weight": 0.5, "keep": "best", "momentum": 0.7},
}


def adaptation(kind: str) -> AdaptSettings:
    common = {"epochs": EPOCHS, "batch_size": BATCH, "rank": 4, "head_steps": 5, "patience": None}
    heads = {"prototypes": 16, "head_hidden": 16, "head_bottleneck": 8}
    return AdaptSettings.model_validate({"enabled": True} | common | heads | ADAPTATIONS[kind])


def adapted(kind: str, place: Path | None, tell: Tell = silent) -> Stage1Net:
    made = net(adapters=False)
    settings = adaptation(kind)
    shown = coloured(ROWS, 1)

    def scores(other: Stage1Net) -> NDArray[np.float64]:
        with torch.no_grad():
            return other.features(torch.from_numpy(shown.images)).std(1).double().numpy()

    judge = Judge(scores, shown.data.labels, shown.data.groups)
    adapt_domain(made, shown.images, settings, seed=0, progress=tell, checkpoints=place, judge=judge)
    return made


def files_of(shown: ImageSet, home: Path) -> ImageSet:
    """The same pictures as files, larger than a network sees them."""
    for row, pixels in zip(shown.data.rows, shown.images, strict=True):
        path = home / f"{row.image}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels.transpose(1, 2, 0)).resize((3 * SIZE_PX, 2 * SIZE_PX)).save(path)
    rows = tuple(row.model_copy(update={"image": f"{row.image}.png"}) for row in shown.data.rows)
    return ImageSet(shown.images, Dataset(home, rows))


def cut_from_files(_: str, place: Path | None, tell: Tell = silent) -> Stage1Net:
    """Crops of files, each run with copies of its own: a killed one makes them anew."""
    made, settings = net(), recipe("adamw", augmentation="strong")
    with TemporaryDirectory() as home:
        train = files_of(coloured(ROWS, 1), Path(home))
        copies = Copies(Path(home) / "copies", PreprocessSettings(size_px=SIZE_PX))
        challenges = training_views(train.data, copies.settings, CALIBRATION, "strong", copies)
        trainee = Trainee(made, train, coloured(64, 2), challenges=challenges)
        train_supervised(trainee, settings, CALIBRATION, seed=0, progress=tell, checkpoints=place)
    return made


def adapted_to_files(_: str, place: Path | None, tell: Tell = silent) -> Stage1Net:
    made = net(adapters=False)
    with TemporaryDirectory() as home:
        data = files_of(coloured(ROWS, 1), Path(home)).data
        copies = Copies(Path(home) / "copies", PreprocessSettings(size_px=SIZE_PX))
        originals = originals_of([data.file_of(row) for row in data.ids], copies)
        pictures = Unshrunk(originals, "letterbox")
        adapt_domain(made, pictures, adaptation("in parts"), seed=0, progress=tell, checkpoints=place)
    return made


def conformal(_: str, place: Path | None, tell: Tell = silent) -> Stage1Net:
    made = net(adapters=False)
    settings = ConformalTrainingSettings(steps=STEPS, batch_size=64, learning_rate=0.03)
    sets = coloured(256, 1), coloured(96, 2)
    outcome = train_conformal_risk(made, *sets, settings, CALIBRATION, seed=0, progress=tell, checkpoints=place)
    # The heads may be those that it started from, so what was said of the others is compared as well.
    said = torch.tensor([outcome.before, outcome.after, outcome.gain.lower], dtype=torch.float64)
    made.register_buffer("said", said)
    assert outcome.after != outcome.before
    return made


def begun_again(_: str, place: Path | None, tell: Tell = silent) -> Stage1Net:
    """Images that say nothing: the first training is given up after one epoch of three, and a second one runs."""
    made = net()
    train, select = (
        ImageSet(np.full_like(images.images, 128), images.data) for images in (coloured(ROWS, 1), coloured(64, 2))
    )
    outcome = train_supervised(
        Trainee(made, train, select),
        recipe("adamw", augmentation="none", balance="none"),
        CALIBRATION,
        seed=0,
        progress=tell,
        checkpoints=place,
    )
    assert outcome.first_rate == pytest.approx(3 * outcome.learning_rate)
    assert not outcome.learned
    return made


MODES: dict[str, tuple[Callable[..., Stage1Net], str]] = {
    **{f"supervised, {kind}": (supervised, kind) for kind in RECIPES},
    **{f"domain adaptation, {kind}": (adapted, kind) for kind in ADAPTATIONS},
    "domain adaptation to files": (adapted_to_files, ""),
    "crops of files": (cut_from_files, ""),
    "conformal risk": (conformal, ""),
    "behind frozen blocks": (behind_frozen_blocks, ""),
    "begun again": (begun_again, ""),
    "taught by a teacher": (taught, ""),
}


def weights(made: Stage1Net) -> bytes:
    return b"".join(tensor.detach().contiguous().numpy().tobytes() for tensor in made.state_dict().values())


def stop_at(step: int) -> Tell:
    """SIGTERM in the middle of a step."""

    def tell(done: int, _total: int, _note: str) -> None:
        if done == step:
            os.kill(os.getpid(), signal.SIGTERM)

    return tell


@pytest.mark.parametrize("mode", MODES)
def test_interrupted_three_times_it_ends_with_the_same_weights(mode: str, tmp_path: Path, backbone: str) -> None:
    train, kind = MODES[mode]
    kind = kind or backbone
    points = sorted(np.random.default_rng([*mode.encode()]).choice(np.arange(1, STEPS), 3, replace=False).tolist())
    expected = weights(train(kind, None))
    for point in points:
        with pytest.raises(TrainingInterrupted, match="goes on where it was"):
            train(kind, tmp_path, stop_at(point))
        # Another training in between must not matter.
        torch.manual_seed(point)
    told: list[int] = []
    resumed = train(kind, tmp_path, lambda done, *_: told.append(done))
    assert told[0] == points[-1] + 1
    assert weights(resumed) == expected


@pytest.mark.parametrize("kind", RECIPES)
def test_the_loss_scale_goes_on_too(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that doubles every two steps soon overflows, and which steps are left out depends on it."""
    monkeypatch.setattr(
        "offline.learning.supervised.train.build_scaler",
        lambda *_: torch.amp.GradScaler("cpu", init_scale=2.0**16, growth_interval=2),
    )
    expected = weights(supervised(kind, None, precision="fp16"))
    with pytest.raises(TrainingInterrupted):
        supervised(kind, tmp_path, stop_at(9), precision="fp16")
    assert weights(supervised(kind, tmp_path, precision="fp16")) == expected


@pytest.mark.parametrize("kind", RECIPES)
def test_what_is_drawn_ahead_is_what_would_have_been_drawn(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ahead = weights(supervised(kind, None))

    def in_turn(inputs: Any, left: Any, generator: torch.Generator) -> Any:
        for rows in left:
            yield rows, inputs.draw(rows, generator)

    monkeypatch.setattr("offline.learning.supervised.train.drawn_ahead", in_turn)
    assert weights(supervised(kind, None)) == ahead


@pytest.mark.parametrize("stop", [2, 7])
def test_out_of_memory_is_met_by_smaller_parts_also_after_an_interruption(
    stop: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the fifth step on memory is enough for two rows of eight."""
    features, passes = Stage1Net.features, [0]

    def scarce(self: Stage1Net, image: Tensor) -> Tensor:
        if self.training:
            passes[0] += 1
            if passes[0] > 4 and len(image) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
        return features(self, image)

    monkeypatch.setattr(Stage1Net, "features", scarce)
    whole = weights(supervised("adamw", None))
    passes[0] = 0
    with pytest.raises(TrainingInterrupted):
        supervised("adamw", tmp_path, stop_at(stop))
    assert weights(supervised("adamw", tmp_path)) == whole
    passes[0] = 4
    made, sets = net(), (coloured(ROWS, 1), coloured(64, 2))
    trainee = Trainee(made, *sets, challenges=SquareChallenges(sets[0].images))
    assert train_supervised(trainee, recipe("adamw"), CALIBRATION, seed=0, progress=silent).accumulation == 4


def test_every_epoch_has_an_order_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[list[int]] = []

    def remembered(order: np.ndarray, size: int) -> list[np.ndarray]:
        drawn.append(order.tolist())
        return batches(order, size)

    monkeypatch.setattr("offline.learning.supervised.train.batches", remembered)
    supervised("fsam", None, precision="fp32", augmentation="light")
    assert len(drawn) == EPOCHS
    assert len({tuple(order) for order in drawn}) == EPOCHS
    assert all(sorted(order) == list(range(ROWS)) for order in drawn)


@pytest.mark.parametrize("mode", MODES)
def test_after_a_crash_it_goes_on_from_the_last_periodic_checkpoint(
    mode: str, tmp_path: Path, backbone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, kind = MODES[mode]
    kind = kind or backbone
    monkeypatch.setattr(Checkpoints.__init__, "__defaults__", (4,))
    expected = weights(train(kind, None))

    def crash(done: int, _total: int, _note: str) -> None:
        if done == 11:
            raise MemoryError

    with pytest.raises(MemoryError):
        train(kind, tmp_path, crash)
    told: list[int] = []
    resumed = train(kind, tmp_path, lambda done, *_: told.append(done))
    # An epoch has 6 steps, and its end is a checkpoint too; conformal training has no epochs.
    assert told[0] == (9 if mode == "conformal risk" else 11)
    assert weights(resumed) == expected


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 75), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_process_that_is_ended_says_so_and_the_next_one_finishes(
    number: signal.Signals, status: int, tmp_path: Path
) -> None:
    child = [sys.executable, str(Path(__file__).with_name("resume_child.py"))]
    done = subprocess.run([*child, str(int(number)), "8", str(tmp_path)], check=False, timeout=900)
    assert done.returncode == status
    told: list[int] = []
    assert weights(supervised("adamw", tmp_path, lambda at, *_: told.append(at))) == weights(supervised("adamw", None))
    assert told[0] == 9 if number == signal.SIGTERM else 7


def test_sigterm_while_an_epoch_is_judged_loses_no_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = weights(supervised("lion", None))
    asked: list[bool] = []
    features = Stage1Net.features

    def interrupting(self: Stage1Net, image: Tensor) -> Any:
        if not self.training and not asked:
            asked.append(True)
            os.kill(os.getpid(), signal.SIGTERM)
        return features(self, image)

    with monkeypatch.context() as patch:
        patch.setattr(Stage1Net, "features", interrupting)
        patch.setattr("offline.learning.predict.EVAL_BATCH", 16)
        with pytest.raises(TrainingInterrupted):
            supervised("lion", tmp_path)
    told: list[int] = []
    assert weights(supervised("lion", tmp_path, lambda done, *_: told.append(done))) == expected
    assert told[:2] == [6, 7]


def run_stages(home: Path, run: Callable[[StageContext], None]) -> Path:
    stage = Stage("train", (), lambda _: Reads(("train_supervised",)), run)
    now = lambda: datetime.now(UTC)  # noqa: E731
    pipeline = Pipeline((stage,), home / "workspace", Store(home / "store"), Data("data"), RunConfig(), now, Silence())
    return pipeline.run()


class Data(NamedTuple):
    """Data that are nothing but their hash."""

    sha256: str


def test_a_stage_that_is_ended_goes_on_and_leaves_no_checkpoint(tmp_path: Path) -> None:
    def stage(tell: Tell) -> Callable[[StageContext], None]:
        def run(context: StageContext) -> None:
            made = supervised("adamw", context.checkpoints, tell)
            (context.out / "weights").write_bytes(weights(made))

        return run

    with pytest.raises(TrainingInterrupted):
        run_stages(tmp_path, stage(stop_at(7)))
    [kept] = (tmp_path / "workspace" / "checkpoints").iterdir()
    assert (kept / FILE).exists()
    assert not [path for path in (tmp_path / "workspace" / "stages").rglob("*") if path.is_file()]
    told: list[int] = []
    home = run_stages(tmp_path, stage(lambda done, *_: told.append(done)))
    assert told[0] == 8
    assert (home / "weights").read_bytes() == weights(supervised("adamw", None))
    assert not list((tmp_path / "workspace" / "checkpoints").iterdir())


def test_checkpoints_that_nobody_came_back_for_are_removed(tmp_path: Path) -> None:
    made = []
    for name, days in (("old", CHECKPOINT_DAYS + 1), ("recent", CHECKPOINT_DAYS - 1)):
        directory = tmp_path / "workspace" / "checkpoints" / name
        directory.mkdir(parents=True)
        (directory / FILE).touch()
        then = datetime.now(UTC).timestamp() - 86400 * days
        os.utime(directory, (then, then))
        made.append(directory)
    run_stages(tmp_path, lambda context: (context.out / "done").touch())
    assert [directory.exists() for directory in made] == [False, True]


def test_pictures_of_nights_long_ago_are_removed_and_files_of_an_earlier_version(tmp_path: Path) -> None:
    home, now = tmp_path / "workspace" / "pixels", datetime.now(UTC).timestamp()
    ages = {f"view{n}": float(n) for n in range(PIXELS_KEPT + 2)}
    ages["view0"] = 86400.0 * (CHECKPOINT_DAYS + 1)
    for name, age in ages.items():
        (home / name).mkdir(parents=True)
        (home / name / "records").touch()
        os.utime(home / name, (now - age, now - age))
    (home / "a-whole-set.npy").touch()
    os.utime(home / "a-whole-set.npy", (now - 100, now - 100))
    run_stages(tmp_path, lambda context: (context.out / "done").touch())
    assert sorted(path.name for path in home.iterdir()) == [f"view{n}" for n in range(1, PIXELS_KEPT + 1)]


def test_copies_that_no_night_used_are_removed_and_what_a_killed_run_did_not_finish(tmp_path: Path) -> None:
    home, now = tmp_path / "workspace" / "originals" / "ab", datetime.now(UTC).timestamp()
    home.mkdir(parents=True)
    ages = {"old.jpg": CHECKPOINT_DAYS + 1, "recent.jpg": CHECKPOINT_DAYS - 1, ".new.jpg.1.partial": 0}
    for name, days in ages.items():
        (home / name).touch()
        os.utime(home / name, (now - 86400 * days, now - 86400 * days))
    run_stages(tmp_path, lambda context: (context.out / "done").touch())
    assert [path.name for path in home.iterdir()] == ["recent.jpg"]


def test_the_old_answer_to_sigterm_is_put_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(TrainingInterrupted):
        supervised("adamw", tmp_path, stop_at(2))
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_training_that_writes_no_checkpoints_leaves_signals_alone() -> None:
    seen = []
    supervised("adamw", None, lambda *_: seen.append(signal.getsignal(signal.SIGTERM)), epochs=1)
    assert set(seen) == {signal.getsignal(signal.SIGTERM)}


@pytest.mark.parametrize("damage", ["cut", "changed", "empty"])
def test_a_damaged_checkpoint_is_no_checkpoint(tmp_path: Path, damage: str) -> None:
    with pytest.raises(TrainingInterrupted):
        supervised("adamw", tmp_path, stop_at(9))
    path = tmp_path / FILE
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes({"cut": bytes(content[:-7]), "changed": bytes(content), "empty": b""}[damage])
    told: list[int] = []
    assert weights(supervised("adamw", tmp_path, lambda done, *_: told.append(done))) == weights(
        supervised("adamw", None)
    )
    assert told[0] == 1


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingInterrupted):
        supervised("adamw", tmp_path, stop_at(3))
    with pytest.raises(TrainingError, match="other settings, data or torch; delete it"):
        supervised("adamw", tmp_path, weight_decay=0.3)


def test_a_pickle_is_never_run(tmp_path: Path) -> None:
    """A file that would run code when unpickled is refused, with its digest right."""
    import hashlib  # noqa: PLC0415
    import io  # noqa: PLC0415

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.system, (f"touch {tmp_path / 'ran'}",))

    buffer = io.BytesIO()
    torch.save({"identity": Evil()}, buffer)
    (tmp_path / FILE).write_bytes(hashlib.sha256(buffer.getvalue()).digest() + buffer.getvalue())
    with pytest.raises(TrainingError, match="not a checkpoint of this program"):
        supervised("adamw", tmp_path)
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_holds_what_trains_and_nothing_frozen(tmp_path: Path) -> None:
    with pytest.raises(TrainingInterrupted):
        supervised("adamw", tmp_path, stop_at(3))
    made = net()
    frozen = {name for name, p in made.named_parameters() if not p.requires_grad}
    trained = Trained(net=made).state_dict()
    assert frozen
    assert not {name.removeprefix("net.") for name in trained} & frozen
    # By name: what DoRAN shares in a block is written once a projection.
    assert len(trained) == sum(p.requires_grad for _, p in made.named_parameters(remove_duplicate=False))


def test_tensors_of_another_network_are_refused() -> None:
    state = Trained(net=nn.Linear(3, 2)).state_dict()
    with pytest.raises(TrainingError, match="another network"):
        Trained(net=nn.Linear(4, 2)).load_state_dict(state)


def test_random_numbers_go_on_where_they_were(tmp_path: Path) -> None:
    drawn = []
    random = Randomness.seeded(3)
    random.order.random(5)
    keeper = Checkpoints(tmp_path, "x", {"random": random})
    keeper.save({})
    for _ in range(2):
        keeper.restore()
        drawn.append((random.order.random(), torch.rand(2, generator=random.views).tolist(), torch.rand(2).tolist()))
    assert drawn[0] == drawn[1]


def test_a_loss_that_is_not_finite_names_the_place_and_keeps_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TrainingInterrupted):
        supervised("adamw", tmp_path, stop_at(8))
    kept = (tmp_path / FILE).read_bytes()
    monkeypatch.setattr(
        "offline.learning.supervised.train.supervised_loss", lambda outputs, *_: outputs.logits.sum() * float("nan")
    )
    with pytest.raises(TrainingError, match=r"epoch 2, step 3 of 6, at a learning rate of 0\.00\d+: lower train_sup"):
        supervised("adamw", tmp_path)
    assert (tmp_path / FILE).read_bytes() == kept


def test_in_half_precision_a_loss_that_is_never_finite_stops_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "offline.learning.supervised.train.supervised_loss", lambda outputs, *_: outputs.logits.sum() * float("nan")
    )
    monkeypatch.setattr("offline.learning.supervised.train.MOST_LEFT_OUT", 5)
    with pytest.raises(TrainingError, match="epoch 1, step 6 of 6"):
        supervised("fsam", tmp_path)


def test_an_epoch_without_balance_has_every_row_once() -> None:
    labels = np.asarray([0] * 30 + [1] * 10, dtype=np.int8)
    order = epoch_order(labels, np.random.default_rng(0), balanced=False)
    assert sorted(order.tolist()) == list(range(40))


@pytest.mark.parametrize(("negatives", "positives"), [(30, 10), (10, 31), (1, 8), (12, 12)])
def test_a_balanced_epoch_has_as_many_of_each_class(negatives: int, positives: int) -> None:
    labels = np.asarray([0] * negatives + [1] * positives, dtype=np.int8)
    order = epoch_order(labels, np.random.default_rng(0), balanced=True)
    total = negatives + positives
    assert len(order) == total
    assert abs(int(labels[order].sum()) * 2 - total) <= 1
    counts = np.bincount(order, minlength=total)
    smaller = labels == int(positives < negatives)
    # The smaller class is repeated evenly; of the larger one none is repeated.
    assert np.ptp(counts[smaller]) <= 1
    assert counts[~smaller].max() <= 1


def test_batches_drop_a_short_rest_unless_it_is_all_there_is() -> None:
    assert [len(b) for b in batches(np.arange(10), 4)] == [4, 4]
    assert [len(b) for b in batches(np.arange(3), 4)] == [3]


def test_training_on_one_class_is_refused() -> None:
    rows = coloured(40, 1)
    one = [n for n, label in enumerate(rows.data.labels) if label == 0]
    single = ImageSet(rows.images[one], Dataset(rows.data.root, tuple(rows.data.rows[n] for n in one)))
    with pytest.raises(TrainingError, match=rf"0 of the {len(one)} rows that train show roadwork"):
        train_supervised(Trainee(net(), single, coloured(32, 2)), recipe("adamw"), CALIBRATION, seed=0, progress=silent)


def test_a_backbone_without_gradient_checkpointing_says_so() -> None:
    made = net(adapters=False)
    made.backbone = nn.Identity()
    with pytest.raises(TrainingError, match="Identity has no gradient checkpointing"):
        train_supervised(
            Trainee(made, coloured(32, 1), coloured(32, 2)),
            recipe("adamw", gradient_checkpointing=True, augmentation="light"),
            CALIBRATION,
            seed=0,
            progress=silent,
        )


@pytest.mark.parametrize("kind", RECIPES)
def test_every_recipe_learns(kind: str) -> None:
    made = net()
    sets = coloured(96, 1), coloured(64, 2)
    settings = recipe(kind, epochs=4, batch_size=16, augmentation="light", precision="fp32")
    records = train_supervised(Trainee(made, *sets), settings, CALIBRATION, seed=0, progress=silent).records
    assert records[-1]["train_loss"] < 0.8 * records[0]["train_loss"]


def test_gradient_checkpointing_changes_memory_not_results() -> None:
    plain, again = (supervised("adamw", None, gradient_checkpointing=on, epochs=1) for on in (False, True))
    assert weights(plain) == weights(again)


def test_parts_of_a_batch_change_memory_not_results() -> None:
    """Up to rounding; the network here draws random numbers, so its dropout is turned off."""
    nets = []
    for accumulation in (1, 4):
        made = net()
        made.class_head = made.class_head[0]  # type: ignore[assignment]
        settings = recipe("adamw", epochs=1, accumulation=accumulation)
        sets = coloured(ROWS, 1), coloured(64, 2)
        trainee = Trainee(made, *sets, challenges=SquareChallenges(sets[0].images))
        train_supervised(trainee, settings, CALIBRATION, seed=0, progress=silent)
        nets.append(made)
    for one, other in zip(*(made.parameters() for made in nets), strict=True):
        assert torch.allclose(one, other, atol=2e-3)
