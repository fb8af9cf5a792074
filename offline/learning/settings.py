"""Settings of training."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, JsonValue, field_validator, model_validator

from stage1.settings import Section, UserPath

Precision = Literal["auto", "fp32", "bf16", "fp16"]
Augmentation = Literal["none", "light", "validators", "strong"]
# What an axis of a race may change: what its folds train with. What a certificate claims, and which rows judge, is
# no recipe, and of an adaptation the folds know only whether they start from it.
RACED = ("adapt_domain.enabled", "model.", "preprocess.", "train_conformal_risk.", "train_supervised.")


class AdaptSettings(Section):
    """Domain adaptation by self-distillation on unlabelled images (`adapt_domain`).

    Attributes:
        enabled: off by default: the supervised stage starts from the backbone as it is.
        images: directories of more unlabelled images beside the training rows, searched with their subdirectories; what
            looks like a row of another set is left out.
        epochs: passes over the images, at most.
        batch_size: images a step.
        accumulation: parts in which a step's images go through the networks; more parts take less memory. The teacher
            assigns over the whole batch, so the step is the same but for KoLeo, whose neighbours are those of a part,
            and for the jitter of positions.
        unfrozen_blocks: blocks at the end that are trained in full, the others through low-rank adapters; None trains
            everything, for a backbone that has learned nothing yet.
        rank: rank of the adapters on query and value; their alpha is the same.
        learning_rate: peak rate of adapters and projection heads, and of everything if `unfrozen_blocks` is None.
        block_learning_rate: peak rate of the unfrozen blocks.
        warm_up: share of the steps in which the rates rise.
        head_steps: steps at the start in which only the projection heads train; at most a twentieth of all.
        weight_decay: weight decay of everything but vectors.
        gradient_clip: largest norm of a step's gradient.
        prototypes: outputs of the projection heads; None fits them to the batch: 16 an image, 1,024 at 64.
        head_hidden: width of their hidden layers.
        head_bottleneck: width before the prototypes.
        local_crops: small crops an image beside the two large ones.
        global_scale: smallest share of the image's area in a large crop, which is what small crops have at most.
        local_scale: smallest share of the image's area in a small crop.
        masked_images: share of the large crops of which patches are masked.
        masked_patches: smallest and largest share of patches that are masked in one of them.
        patch_weight: weight of the loss on masked patches (iBOT); 0 for none.
        koleo_weight: weight of the loss that spreads the features (KoLeo), summed over the large crops.
        gram_weight: weight of the anchor that keeps patch similarities as they were before adaptation; 0 for none.
        momentum: share that the teacher keeps in a step; None lets the number of steps say: its time constant is a
            twentieth of the steps of the backbone.
        teacher_temperature: of the teacher's assignments at the start and from 30% of the steps on.
        precision: precision of the forward pass: `auto`, `fp32` or `bf16`; `auto` is bf16 on a GPU and fp32 on
            a CPU.
        gradient_checkpointing: compute activations twice instead of keeping them.
        judge: how student and teacher of an epoch are judged on val_select: by a linear probe or by the nearest
            neighbours, fitted on train.
        patience: epochs without a better judgement after which it stops; None goes through all of them.
        keep: when the best judged takes the place of the backbone as it was: `proven` if the interval of its gain is
            above zero, `best` if it is better at all.
    """

    enabled: bool = False
    images: tuple[UserPath, ...] = ()
    epochs: int = Field(default=10, ge=1)
    batch_size: int = Field(default=64, ge=2)
    accumulation: int = Field(default=1, ge=1)
    unfrozen_blocks: int | None = Field(default=1, ge=1)
    rank: int = Field(default=64, ge=1)
    learning_rate: float = Field(default=2e-4, gt=0)
    block_learning_rate: float = Field(default=5e-5, gt=0)
    warm_up: float = Field(default=0.1, ge=0, lt=1)
    head_steps: int = Field(default=500, ge=0)
    weight_decay: float = Field(default=0.04, ge=0)
    gradient_clip: float = Field(default=3.0, gt=0)
    prototypes: int | None = Field(default=None, ge=2)
    head_hidden: int = Field(default=2048, ge=8)
    head_bottleneck: int = Field(default=256, ge=4)
    local_crops: int = Field(default=4, ge=0)
    global_scale: float = Field(default=0.32, gt=0, le=1)
    local_scale: float = Field(default=0.05, gt=0, le=1)
    masked_images: float = Field(default=0.5, ge=0, le=1)
    masked_patches: tuple[float, float] = (0.1, 0.5)
    patch_weight: float = Field(default=1.0, ge=0)
    koleo_weight: float = Field(default=0.1, ge=0)
    gram_weight: float = Field(default=0.0, ge=0)
    momentum: float | None = Field(default=None, ge=0, lt=1)
    teacher_temperature: tuple[float, float] = (0.04, 0.07)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    gradient_checkpointing: bool = False
    judge: Literal["probe", "neighbours"] = "probe"
    patience: int | None = Field(default=3, ge=1)
    keep: Literal["proven", "best"] = "proven"


class FSamSettings(Section):
    """Friendly-SAM, a second gradient at a point that the first one climbs to.

    Attributes:
        base: the optimiser that takes the step.
        form: what climbs: the weights of the `adapter`, or the weights that it is `merged` into, which sees sharpness
            that the factors of a low-rank adapter cannot reach, and takes the memory of two more copies of them.
        rho: length of the climb, as a share of the way that the adapter has come since training began; heads have no
            part in it. See `offline.learning.supervised.sharpness.FriendlySam`.
        sigma: share of the running mean that is taken out of the climbing gradient.
        momentum: share of the running mean that a step keeps; the paper's lambda.
    """

    base: Literal["adamw", "lion"] = "adamw"
    form: Literal["adapter", "merged"] = "adapter"
    rho: float = Field(default=0.01, gt=0)
    sigma: float = Field(default=1.0, ge=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)


class TrainSettings(Section):
    """Supervised training (`train_supervised`).

    Attributes:
        epochs: passes over the training images, at least.
        least_steps: steps, at least: few images are gone through more often. 0 for none.
        judgements: epochs that are judged on val_select, at most, evenly over the training; the last always is.
        batch_size: images a step.
        accumulation: parts in which a step's images go through the network; more parts take less memory, and the step
            is the same, but for named heads, whose loss is a mean over the rows of a part that have a value.
        optimiser: `adamw`, `lion` or `fsam`; `lion` wants a learning rate 3 to 10 times lower and as much more
            weight decay, `fsam` doubles the time of a step.
        fsam: of the optimiser `fsam`.
        learning_rate: peak rate of the schedule, a straight line up and half a cosine down. A training that has not
            left the loss of chance after a third of its steps begins again, once, at a third of it.
        layer_decay: factor of the rate from one block to the one below it; 1 for one rate everywhere. Below 1 it is
            for `model.last_layers` at null, where all blocks train.
        warm_up: share of the steps in which the rate rises.
        weight_decay: weight decay of everything but vectors.
        selection: what the selection head learns: `correctness` predicts whether the class head is right, without
            touching the class head; `selectivenet` weighs each row's classification loss and is held to a coverage.
        selection_weight: weight of the selection head's loss.
        selection_coverage: mean soft coverage that `selectivenet` is held to.
        auxiliary_weight: weight of a second class head that exists only in training and sees every row, so that the
            features do not forget the rows that the selection head gives up.
        named_weight: weight of each named head's loss.
        label_smoothing: of the cross-entropy. It lowers the largest logit most where an answer is likely right, and so
            spoils the order by which answers exit (Xia et al. 2025, arXiv 2403.14715).
        gradient_clip: largest norm of a step's gradient.
        ema_decay: share that the moving average of the weights keeps in a step; 0 for none; `auto` forgets over a
            twentieth of the steps. With one, the average is what is judged and kept.
        precision: of the forward pass; weights and optimiser stay fp32; `auto` is bf16 on a GPU. A loss that is not
            finite stops the training, in `fp16` only if it happens again and again: single steps are left out while
            the loss scale is found.
        gradient_checkpointing: compute activations twice instead of keeping them.
        balance: what is done about a rare class: `batches` shows as many images of each class in an epoch, so those of
            the rare one are repeated; `logits` adds the logarithms of the class shares to the logits in the loss;
            both train a network that answers as if the classes were equally frequent. `auto` takes `logits` if one
            class has less than a quarter of the images, and otherwise `none`.
        augmentation: `none` shows images as they are; `light` mirrors and dims; `validators` shows what validators make
            of pictures, drawn anew each time by `calibrate_scrc.stream_weights`; `strong` makes them of random
            crops of the files, and does the usual colours and erasures after that.
        checkpoint_steps: steps between two checkpoints that a killed run can go on from.
        cache: keep what the frozen blocks below the adapters make of `cache_views` augmented views of each image on
            disk, and train from there: `auto` if they take no more than `cache_share` of the free disk, `on` or stop,
            or `off`, which augments anew in every epoch.
        cache_views: augmented views of each image that are kept.
        cache_share: largest share of the free disk.
        warm_start: directory of an adapter of the same model that an earlier run wrote; without it training
            starts anew.
    """

    epochs: int = Field(default=12, ge=1)
    least_steps: int = Field(default=0, ge=0)
    judgements: int = Field(default=16, ge=1)
    batch_size: int = Field(default=32, ge=2)
    accumulation: int = Field(default=1, ge=1)
    optimiser: Literal["adamw", "lion", "fsam"] = "adamw"
    fsam: FSamSettings = FSamSettings()
    learning_rate: float = Field(default=1e-3, gt=0)
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    warm_up: float = Field(default=0.15, ge=0, lt=1)
    weight_decay: float = Field(default=0.02, ge=0)
    selection: Literal["correctness", "selectivenet"] = "correctness"
    selection_weight: float = Field(default=0.5, ge=0)
    selection_coverage: float = Field(default=0.8, gt=0, le=1)
    auxiliary_weight: float = Field(default=0.0, ge=0)
    named_weight: float = Field(default=0.3, ge=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    gradient_clip: float = Field(default=1.0, gt=0)
    ema_decay: Literal["auto"] | Annotated[float, Field(ge=0, lt=1)] = "auto"
    precision: Precision = "auto"
    gradient_checkpointing: bool = False
    balance: Literal["auto", "none", "batches", "logits"] = "auto"
    augmentation: Augmentation = "light"
    checkpoint_steps: int = Field(default=200, ge=1)
    cache: Literal["auto", "on", "off"] = "auto"
    cache_views: int = Field(default=4, ge=1)
    cache_share: float = Field(default=0.5, gt=0, le=1)
    warm_start: UserPath | None = None

    def steps_an_epoch(self, rows: int) -> int:
        """Steps of one pass over so many images; a last short batch is left out unless it is the only one."""
        return max(1, rows // self.batch_size)

    def passes(self, rows: int) -> int:
        """Passes over so many images, by `epochs` and `least_steps`."""
        return max(self.epochs, -(-self.least_steps // self.steps_an_epoch(rows)))

    @model_validator(mode="before")
    @classmethod
    def _of_class_balanced(cls, values: object) -> object:
        """Take over a config of a version that knew balanced batches alone; refuse the name beside the new one."""
        if not isinstance(values, dict) or "class_balanced" not in values:
            return values
        if "balance" in values:
            raise ValueError("class_balanced is called balance: set balance to batches for true, to none for false")
        kept = {name: value for name, value in values.items() if name != "class_balanced"}
        return kept | {"balance": "batches" if values["class_balanced"] else "none"}

    @model_validator(mode="after")
    def _whole_batches(self) -> Self:
        if self.selection == "selectivenet" and self.accumulation > 1:
            raise ValueError("selection selectivenet holds a whole batch to a coverage: set accumulation to 1")
        return self


class ConformalTrainingSettings(Section):
    """Conformal risk training of the heads (`train_conformal_risk`).

    Attributes:
        enabled: train the heads for the exit risk; otherwise the supervised model goes on unchanged.
        steps: gradient steps on cached features.
        views: views of each image whose features are kept, as `calibrate_scrc.stream` sends it; a step draws one of
            them for each of its rows. Of originals there is one.
        batch_size: rows in a step; one half calibrates, the other half is scored.
        risk: whose threshold is inside the loss: D2 by the implicit gradient of its root, D1 by an order statistic.
        alpha: its level inside a batch; larger than the certified one, because a batch has few positives.
        learning_rate: learning rate of Adam.
        match_held_out: where the rows that train score better than new ones, because the adapter was fitted to them,
            draw them so that the scores of each class spread as they do on the half of val_select that chooses.
        temperature: softness of the exit thresholds, in logits.
        risk_weight: weight of the risk loss; 0 trains on by cross-entropy alone, for comparison.
        cross_entropy_weight: weight of the classification loss that keeps the scores meaningful: with 0.1 the answers
            are wrong twice as often at the cut of 0.5, and no more exits.
        group_cvar: weight of the misses in the worst groups; 0 for none.
        group_cvar_level: share of the groups that is not among the worst.
    """

    enabled: bool = True
    steps: int = Field(default=300, ge=1)
    views: int = Field(default=4, ge=1)
    batch_size: int = Field(default=1024, ge=64)
    risk: Literal["D1", "D2"] = "D2"
    alpha: float = Field(default=0.05, gt=0, lt=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    match_held_out: bool = True
    temperature: float = Field(default=0.25, gt=0)
    risk_weight: float = Field(default=1.0, ge=0)
    cross_entropy_weight: float = Field(default=1.0, ge=0)
    group_cvar: float = Field(default=0.0, ge=0)
    group_cvar_level: float = Field(default=0.9, ge=0, lt=1)


class CompareSettings(Section):
    """What is trained beside the model, so that the report can say what each step gained (`compare_training`).

    Attributes:
        baseline: a small head by cross-entropy on features of the backbone as it came, which exits at 0.88 and 0.12.
        cross_entropy: where conformal risk training is on, the same steps by cross-entropy alone.
        adaptation: where domain adaptation is on, the whole training without it; costs as much again. Not where
            there is a teacher or an adapter to start from, which it would lack as well.
        repetitions: replicates of the group bootstrap.
    """

    baseline: bool = True
    cross_entropy: bool = True
    adaptation: bool = True
    repetitions: int = Field(default=1000, ge=1)


class LearnSettings(Section):
    """How a night chooses the way it trains (`learn`).

    Attributes:
        recipe: `fixed` trains as the config says; `auto` lets recipes race on held-out folds of train and val_select,
            and goes on as the winner does.
        budget_minutes: minutes that the race may take; a recipe is started only if what has to follow it fits.
        budget_trainings: the same in whole trainings of one fold, so that the outcome does not depend on the machine;
            it takes the place of the minutes.
        starters: most recipes that start.
        finalists: most recipes on the last rung beside the simplest.
        folds: of the rows by group: one is held out, one chooses the checkpoint, the others train.
        seeds: trainings of a finalist on each fold.
        level: of the interval of a finalist's gain over the simplest recipe that must be above zero, for all finalists
            together.
        repetitions: replicates of its group bootstrap.
        axes: what may vary beside `offline.learning.race.recipes.AXES`, or instead of an axis of the same name; an
            empty one takes that axis out. Options by name, the simplest first, and what each changes of the config, by
            dotted path below `RACED`. A text that begins with `*` multiplies the value of the config.
        review: with `fixed`, train the folds to list the rows whose labels held-out answers contradict most; `auto`
            lists them always.
        ray: train through Ray Tune, several folds at a time, on the GPUs and hosts of a Ray cluster.
        teacher: whose answers training follows beside the labels: a bundle or a run, a directory of several, whose mean
            is taken, or a table of verdicts on pictures with the columns `image` and `probability`; None for nobody. It
            is asked about rows that train and about pictures without labels, and never about val_select, val_calib or
            test. Recipes race without it.
        teacher_images: directories of pictures without labels that a bundle or a run is asked about.
        teacher_weight: weight of the teacher in the loss; that of the labels is one minus it.
        teacher_temperature: by which the log-odds of teacher and model are divided before they are compared.
    """

    recipe: Literal["fixed", "auto"] = "fixed"
    budget_minutes: float = Field(default=120, gt=0)
    budget_trainings: float | None = Field(default=None, gt=0)
    starters: int = Field(default=27, ge=1)
    finalists: int = Field(default=3, ge=1)
    folds: int = Field(default=5, ge=3)
    seeds: int = Field(default=1, ge=1)
    level: float = Field(default=0.95, gt=0, lt=1)
    repetitions: int = Field(default=2000, ge=100)
    axes: dict[str, dict[str, dict[str, JsonValue]]] = Field(default_factory=dict)
    review: bool = False
    ray: bool = False
    teacher: UserPath | None = None
    teacher_images: tuple[UserPath, ...] = ()
    teacher_weight: float = Field(default=0.5, ge=0, le=1)
    teacher_temperature: float = Field(default=2.0, gt=0)

    @field_validator("axes")
    @classmethod
    def _trainings_alone(
        cls, axes: dict[str, dict[str, dict[str, JsonValue]]]
    ) -> dict[str, dict[str, dict[str, JsonValue]]]:
        """Refuse an axis of what a race must not choose."""
        for axis, options in axes.items():
            for path in {path for overrides in options.values() for path in overrides}:
                if not path.startswith(RACED):
                    raise ValueError(
                        f"{axis}: an axis cannot change {path}, which is no part of a training: it may change "
                        f"{', '.join(one + '*' if one.endswith('.') else one for one in RACED)}"
                    )
        return axes
