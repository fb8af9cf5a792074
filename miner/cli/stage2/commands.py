"""`cascade stage2`: look at the servers behind the bridge, and find out what they are worth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from miner.cli.options import PATH, ChangeOption, ConfigOption, ProgressKind, clear_errors, parsed_changes, say

stage2 = typer.Typer(
    name="stage2", help="Look at the Stage-2 servers that deferred images go to.", no_args_is_help=True
)

DataOption = Annotated[Path, typer.Option(help="Directory with labels.csv that the bundle was made of.", **PATH)]
BundleOption = Annotated[str | None, typer.Option(help="Id of a bundle, or its beginning; default the current one.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
KindOption = Annotated[ProgressKind, typer.Option(help="How progress is shown.")]


@stage2.callback()
def _group() -> None:
    """Look at the Stage-2 servers that deferred images go to."""


@stage2.command()
def check(
    image: Annotated[
        Path | None, typer.Argument(help="Sent to each server; without it, a black square.", exists=True, **PATH)
    ] = None,
    config: ConfigOption = None,
    change: ChangeOption = None,
    timeout_s: Annotated[float, typer.Option(min=0.1, help="Seconds for each server.")] = 30.0,
) -> None:
    """Ask every Stage-2 server whether it is ready, what its model takes and gives, and for its verdict on one image.

    Ends with status 1 if one of them does not answer, or not as the settings say.

    Examples: `cascade stage2 check` · `cascade stage2 check street.jpg --config cascade.toml`
    """
    with clear_errors():
        import asyncio  # noqa: PLC0415

        from miner.settings import load_settings  # noqa: PLC0415
        from stage1.errors import SettingsError  # noqa: PLC0415
        from stage2_bridge.sample_image import black_image  # noqa: PLC0415
        from stage2_bridge.servers.inspection import inspected  # noqa: PLC0415

        settings = load_settings(config, parsed_changes(change)).stage2
        if not settings.all_servers:
            raise SettingsError("no Stage-2 server is named: set stage2.servers, or stage2.engine")
        content = black_image() if image is None else image.read_bytes()
        found = asyncio.run(inspected(settings, content, timeout_s))
        for one in found:
            say(f"{'failed' if one.failed else 'ok':<8}{one.name} ({one.kind}): {one.in_words}")
        raise typer.Exit(any(one.failed for one in found))


@stage2.command()
def evaluate(
    data: DataOption,
    config: ConfigOption = None,
    change: ChangeOption = None,
    bundle: BundleOption = None,
    server: Annotated[str | None, typer.Option(help="Ask this one alone; default all of the settings.")] = None,
    most: Annotated[
        int | None, typer.Option(min=1, help="Most rows of each set to ask about, picked by hash; default all.")
    ] = None,
    price: Annotated[
        float | None, typer.Option(min=0, help="Of one call, in any money; default that of the settings.")
    ] = None,
    at_a_time: Annotated[int | None, typer.Option(min=1, help="Images at a time; default four.")] = None,
    timeout_s: Annotated[float, typer.Option(min=0.1, help="Seconds for each image.")] = 30.0,
    progress: KindOption = ProgressKind.AUTO,
    as_json: JsonOption = False,
) -> None:
    """Ask the servers of the settings about val_select and test of a bundle: calibrate on one, judge on the other.

    Each answer is kept beside the bundles of the store as it comes, so a run that was killed goes on where it was, and
    a miner that is started afterwards answers with calibrated probabilities. Rows of val_calib are not touched.

    Examples: `cascade stage2 evaluate --data roads/` · `cascade stage2 evaluate --data roads/ --server vlm --most 300
    --price 0.002`
    """
    with clear_errors():
        import json  # noqa: PLC0415

        from engines.machine.clock import utc_now  # noqa: PLC0415
        from engines.store.store import Store  # noqa: PLC0415
        from miner.cli.stage2.evaluation import (  # noqa: PLC0415
            Asking,
            Screen,
            chosen_servers,
            evaluate_servers,
            rows_of_store,
        )
        from miner.cli.stage2.text import record_text  # noqa: PLC0415
        from miner.progress_display import display  # noqa: PLC0415
        from miner.settings import load_settings  # noqa: PLC0415

        settings = load_settings(config, parsed_changes(change))
        servers = chosen_servers(settings.stage2, server)
        store = Store(settings.store)
        judged, sha256 = rows_of_store(store, bundle, data)
        asking = Asking(at_a_time=at_a_time, timeout_s=timeout_s, price=price, most=most)
        with display(progress.value) as shown:
            screen = Screen(shown.stage, shown.step)
            found = evaluate_servers(servers, judged, store, sha256, asking, screen, utc_now)
        if as_json:
            say(json.dumps([{"file": str(path), **one.model_dump(mode="json")} for path, one in found], indent=2))
        else:
            say("\n\n".join(record_text(path, one) for path, one in found))
            say("what both stages earn together: `cascade stage2 report`, with the same options")


@stage2.command()
def report(
    data: DataOption,
    config: ConfigOption = None,
    change: ChangeOption = None,
    bundle: BundleOption = None,
    out: Annotated[Path | None, typer.Option(help="The page; default beside the scores in the store.", **PATH)] = None,
    progress: KindOption = ProgressKind.AUTO,
    as_json: JsonOption = False,
) -> None:
    """Judge the whole cascade of a bundle by the scores that `cascade stage2 evaluate` kept, and write a page.

    It asks no server. A night does the same for its own bundle, if there are scores before it evaluates.

    Examples: `cascade stage2 report --data roads/` · `cascade stage2 report --data roads/ --bundle 3f2a --out now.html`
    """
    with clear_errors():
        from engines.store.store import Store  # noqa: PLC0415
        from miner.cli.stage2.evaluation import Screen, rows_of_store  # noqa: PLC0415
        from miner.cli.stage2.page import write_page  # noqa: PLC0415
        from miner.cli.stage2.text import cascades_text  # noqa: PLC0415
        from miner.progress_display import display  # noqa: PLC0415
        from miner.settings import load_settings  # noqa: PLC0415
        from offline.evaluation.cascade_curve import CascadeFile  # noqa: PLC0415

        settings = load_settings(config, parsed_changes(change))
        store = Store(settings.store)
        judged, _ = rows_of_store(store, bundle, data)
        with display(progress.value) as shown:
            page, cascades = write_page(store, judged, out, Screen(shown.stage, shown.step))
        if as_json:
            say(CascadeFile(cascades=cascades).model_dump_json(indent=2))
        else:
            say(cascades_text(cascades, page, infeasible=judged.params.rule is None))
