"""`cascade stage2 report`: the whole cascade of a bundle, without a new night."""

from __future__ import annotations

from pathlib import Path

from engines.store.stage2_scores import HOME
from engines.store.store import Store
from miner.cli.stage2.evaluation import Screen
from offline.evaluation.cascade_curve import WholeCascade
from offline.report.cascade_section import cascade_page
from offline.whole_cascade import JudgedRows, bundle_answers, cascades_of
from stage1.artifacts import write_atomic
from stage1.errors import SettingsError


def write_page(
    store: Store, judged: JudgedRows, out: Path | None, screen: Screen
) -> tuple[Path, tuple[WholeCascade, ...]]:
    """Judge the cascade of a bundle with every server that the store has scores of, and write the page.

    Args:
        store: holds the bundle and the scores.
        judged: the bundle and its rows.
        out: the page; None for one beside the scores.
        screen: where to tell how far it is.

    Returns:
        Where the page is, and what it shows.

    Raises:
        SettingsError: no server was asked about these rows.
        EngineError: the bundle cannot be loaded, or a file of the store is damaged.
        DatasetError: an image cannot be read.
    """
    screen.stage("cascade", "running")
    [test] = bundle_answers(judged, [judged.test], screen.step, ["test"])
    cascades = cascades_of(
        store.root,
        test,
        judged.test,
        judged.val_select,
        judged.preprocess,
        seed=judged.params.seed,
        told=screen.step,
    )
    screen.stage("cascade", "done")
    if not cascades:
        raise SettingsError(
            f"{store.root / HOME}: no server has been asked about the test rows of bundle {judged.bundle}: run "
            "`cascade stage2 evaluate` with the same options first"
        )
    page = store.root / HOME / f"{judged.bundle}.html" if out is None else out
    title = f"The whole cascade, bundle {judged.bundle}"
    sources = sorted({row.source or "unnamed source" for row in judged.test.rows})
    told = f"Data: the test rows of the bundle, of {', '.join(sources)}."
    if judged.missing:
        told += f" {judged.missing} rows of val_select and test are not in the data."
    content = cascade_page(cascades, title=title, data=told, infeasible=judged.params.rule is None)
    page.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(page, content.encode())
    return page, cascades
