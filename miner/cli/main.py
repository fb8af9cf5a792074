"""The command line. Heavy modules are imported inside the commands, so that help is instant."""

from __future__ import annotations

import signal
import sys
import time
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from miner.cli.alerts import alerts
from miner.cli.chain.commands import chain
from miner.cli.config.commands import config, init
from miner.cli.doctor.commands import doctor
from miner.cli.drop_in import DropInCommand, EnvFileOption, settings_of
from miner.cli.engines.commands import engines
from miner.cli.harvest.commands import harvest
from miner.cli.live_risk.commands import risk
from miner.cli.nightly import nightly
from miner.cli.options import (
    PATH,
    ChangeOption,
    ConfigOption,
    clear_errors,
    parsed_changes,
    say,
)
from miner.cli.retrain.commands import retrain
from miner.cli.runs.commands import runs
from miner.cli.simulate import simulate
from miner.cli.stage2.commands import stage2
from miner.cli.support.commands import support
from miner.cli.update import update
from miner.upstream.natix_registration import BASE_URL

STARTED = time.monotonic()

# Headings in the list of commands.
BEGIN, SERVE, TRAIN = "Begin", "Serve", "Train and publish"

app = typer.Typer(
    name="cascade",
    help="A miner for Bittensor subnet 72 whose first stage exits only where a certificate allows it.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
app.add_typer(engines, rich_help_panel=TRAIN)
app.add_typer(stage2, rich_help_panel=SERVE)
app.add_typer(risk, rich_help_panel=SERVE)
app.add_typer(harvest, rich_help_panel=SERVE)
app.add_typer(config, rich_help_panel=BEGIN)
app.add_typer(chain, rich_help_panel=SERVE)
app.add_typer(alerts, rich_help_panel=SERVE)
app.add_typer(update, rich_help_panel=SERVE)
app.command(rich_help_panel=BEGIN)(init)
app.command(cls=DropInCommand, rich_help_panel=BEGIN)(doctor)
app.command(cls=DropInCommand, rich_help_panel=SERVE)(support)
app.command(rich_help_panel=TRAIN)(retrain)
app.add_typer(runs, rich_help_panel=TRAIN)
app.command(rich_help_panel=SERVE)(simulate)
app.command(cls=DropInCommand, rich_help_panel=TRAIN)(nightly)


class PlanMode(StrEnum):
    """What `cascade plan` plans for."""

    RISK = "risk"
    COVERAGE = "coverage"
    BALANCED = "balanced"


@app.command(rich_help_panel=BEGIN)
def demo(
    data: Annotated[
        Path | None,
        typer.Option(help="Directory with labels.csv; without it, synthetic street scenes are drawn.", **PATH),
    ] = None,
    directory: Annotated[Path, typer.Option(help="Where the demo works; emptied first.", **PATH)] = Path(
        "cascade-data/demo"
    ),
    quick: Annotated[
        bool, typer.Option("--quick", help="A minute of it: too few scenes to certify anything, which the miner says.")
    ] = False,
    scenes: Annotated[int | None, typer.Option(min=400, help="Synthetic scenes to draw.")] = None,
    difficulty: Annotated[
        float, typer.Option(min=0, max=1, help="0 is near and bright, 1 is far, dark and hidden.")
    ] = 0.25,
    seed: Annotated[int, typer.Option(help="Seed of scenes and training.")] = 0,
) -> None:
    """Run the whole product once: train, certify, serve, be asked by a real dendrite, hot-swap, keep score.

    Examples: `cascade demo` · `cascade demo --quick` · `cascade demo --data photographs/`
    """
    with clear_errors():
        from miner.demo.run import QUICK, WHOLE, DemoSettings, run_demo  # noqa: PLC0415

        extent = QUICK if quick else WHOLE
        extent = extent if scenes is None else replace(extent, scenes=scenes)
        settings = DemoSettings(directory=directory, data=data, extent=extent, difficulty=difficulty, seed=seed)
        raise typer.Exit(run_demo(settings))


@app.command(cls=DropInCommand, rich_help_panel=SERVE)
def mine(
    context: typer.Context,
    config: ConfigOption = None,
    wallet: Annotated[str | None, typer.Option(help="Name of the wallet.")] = None,
    hotkey: Annotated[str | None, typer.Option(help="Name of the hotkey.")] = None,
    port: Annotated[int | None, typer.Option(help="Port of the axon.")] = None,
    network: Annotated[str | None, typer.Option(help="Chain network: finney, test, or a WebSocket URL.")] = None,
    netuid: Annotated[int | None, typer.Option(help="72 on finney, 323 on the test network.")] = None,
    change: ChangeOption = None,
    retrain_now: Annotated[bool, typer.Option("--retrain-now", help="Start the nightly job once, at once.")] = False,
    env_file: EnvFileOption = None,
    print_settings: Annotated[
        bool, typer.Option("--print-settings", help="Only print the settings that would be used, as a cascade.toml.")
    ] = False,
) -> None:
    """Answer validators until stopped. Settings: flags, then CASCADE_ variables, then cascade.toml, then defaults.

    Flags of the reference miner (`--wallet.name`, `--axon.port` and all others) and its `miner.env` are understood as
    well; docs/moving.md says what becomes of each.

    Examples: `cascade mine --wallet miner --hotkey one` · `cascade mine --set stage2.engine=stage2/ --retrain-now` ·
    `cascade mine --env-file miner.env` · `cascade mine --env-file miner.env --print-settings`
    """
    # Until the process has something to reload and to stop; what it starts gets the default again. As the first process
    # of a container it would not be ended by the default.
    signal.signal(signal.SIGHUP, lambda *_: None)
    signal.signal(signal.SIGTERM, _leave)
    with clear_errors():
        import asyncio  # noqa: PLC0415

        from miner.logs import configure_logging  # noqa: PLC0415
        from stage1.errors import SettingsError  # noqa: PLC0415

        flags = {"wallet.name": wallet, "wallet.hotkey": hotkey, "axon.port": port}
        flags |= {"chain.network": network, "chain.netuid": netuid}
        changes = parsed_changes(change, flags)
        used = settings_of(context, config, changes, env_file)
        settings = used.settings
        if retrain_now and settings.retrain.data is None:
            raise SettingsError("--retrain-now needs retrain.data: the directory with labels.csv")
        configure_logging(settings.log.level, settings.log.json_lines)
        used.tell()
        if print_settings:
            say(used.as_toml())
            return
        from miner.process import leave_native_work, run_miner  # noqa: PLC0415
        from miner.signals import leave_after  # noqa: PLC0415

        run = run_miner(
            settings,
            read_again=lambda: settings_of(context, config, changes, env_file).settings,
            retrain_now=retrain_now,
            started=STARTED,
            on_stop=leave_after,
        )
        try:
            with clear_errors():
                asyncio.run(run)
        except typer.Exit as failed:
            leave_native_work(failed.exit_code)
            raise
        finally:
            _ignore_late_signals()
        leave_native_work()


def _leave(*_: object) -> None:
    _ignore_late_signals()
    sys.exit(0)


def _ignore_late_signals() -> None:
    """Nothing is left to stop or to reload, and the interpreter takes a while to end: it keeps its exit status."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


@app.command(rich_help_panel=BEGIN)
def plan(
    alpha: Annotated[float, typer.Option(min=1e-4, max=0.5, help="Highest miss rate on exits to certify.")] = 0.02,
    delta: Annotated[float, typer.Option(min=1e-4, max=0.5, help="One minus the confidence.")] = 0.10,
    miss_rate: Annotated[
        float, typer.Option(min=0, max=1, help="True miss rate you expect of the model on what exits.")
    ] = 0.005,
    mode: Annotated[PlanMode, typer.Option(help="What is to be certified.")] = PlanMode.RISK,
    coverage: Annotated[float, typer.Option(min=0.01, max=0.99, help="Mode coverage: what to certify.")] = 0.80,
    expected_coverage: Annotated[
        float, typer.Option(min=0.01, max=0.999, help="Mode coverage: what you expect.")
    ] = 0.85,
    subgroups: Annotated[int, typer.Option(min=1, help="Mode balanced: number of subgroups.")] = 2,
    exit_share: Annotated[
        float, typer.Option(min=0.01, max=1, help="Share of the roadwork that you expect to exit.")
    ] = 0.8,
    prevalence: Annotated[float, typer.Option(min=0.001, max=1, help="Share of all groups that show roadwork.")] = 0.3,
    looks: Annotated[int, typer.Option(min=1, help="Certifications that share delta on the same rows.")] = 6,
    uses: Annotated[int, typer.Option(min=0, help="Certifications that have looked at the rows already.")] = 0,
    nights: Annotated[bool, typer.Option("--nights", help="Divide delta among nights without end instead.")] = False,
    single_use: Annotated[bool, typer.Option("--single-use", help="Give one certificate all of delta.")] = False,
    calib_share: Annotated[
        float, typer.Option(min=0.01, max=1, help="Share of newly labelled groups that reaches val_calib.")
    ] = 0.2,
    have: Annotated[int | None, typer.Option(min=1, help="Roadwork groups that exit, which you already have.")] = None,
    monitor: Annotated[
        bool, typer.Option("--monitor", help="Plan the watch on a certificate instead: days to an alarm, labels a day.")
    ] = False,
    requests: Annotated[float, typer.Option(min=1, help="With --monitor: places asked about, a day.")] = 1000.0,
    audit_exit0: Annotated[float, typer.Option(min=0.01, max=1, help="With --monitor: share of exits as 0.")] = 0.3,
    audit_exit1: Annotated[float, typer.Option(min=0.01, max=1, help="With --monitor: share of exits as 1.")] = 0.05,
) -> None:
    """Say how many groups of images must be labelled before anything can be certified, and how likely that succeeds.

    Examples: `cascade plan` · `cascade plan --alpha 0.01 --miss-rate 0.002` ·
    `cascade plan --mode balanced --subgroups 4` · `cascade plan --monitor --requests 3000`
    """
    with clear_errors():
        if monitor:
            from miner.cli.live_risk.monitor_plan import monitor_plan  # noqa: PLC0415

            say(monitor_plan(alpha, requests, prevalence, exit_share, audit_exit0, audit_exit1))
            return
        from miner.cli.plan import told  # noqa: PLC0415
        from stage1.certificate.statistics.sample_size import Question  # noqa: PLC0415
        from stage1.errors import SettingsError  # noqa: PLC0415

        if nights and single_use:
            raise SettingsError("--nights and --single-use divide delta in two ways: give one of them")
        question = Question(
            alpha=alpha,
            delta=delta,
            expected_rate=miss_rate,
            spending="single_use" if single_use else "nights" if nights else "looks",
            looks=looks,
            earlier_uses=uses,
            subgroups=subgroups if mode is PlanMode.BALANCED else 0,
            exit_share=exit_share,
            prevalence=prevalence,
            calib_share=calib_share,
        )
        target = (coverage, expected_coverage) if mode is PlanMode.COVERAGE else None
        say(told(question, have=have, coverage=target))


@app.command(rich_help_panel=BEGIN)
def scenes(
    directory: Annotated[Path, typer.Argument(help="Where images/ and labels.csv are written.", **PATH)],
    count: Annotated[int, typer.Option(min=1, help="Number of scenes.")] = 400,
    difficulty: Annotated[
        float, typer.Option(min=0, max=1, help="0 is near and bright, 1 is far, dark and hidden.")
    ] = 0.25,
    seed: Annotated[int, typer.Option(help="Seed of the set.")] = 0,
) -> None:
    """Draw synthetic street scenes with labels, for trying things out.

    Example: `cascade scenes scenes/ --count 800`
    """
    with clear_errors():
        from miner.progress_display import display  # noqa: PLC0415
        from offline.data.sources.labels_csv import LABELS_FILE  # noqa: PLC0415
        from offline.data.sources.synthetic_streets import write_scenes  # noqa: PLC0415

        with display() as shown:
            shown.stage("drawing", "running")
            for done in write_scenes(directory, scenes=count, seed=seed, difficulty=difficulty):
                shown.step(done, count)
            shown.stage("drawing", "done")
        with (directory / LABELS_FILE).open(encoding="utf-8") as labels:
            pictures = sum(1 for _ in labels) - 1
        say(f"{count} synthetic scenes in {directory}, in {pictures} pictures")


@app.command("register-natix", cls=DropInCommand, rich_help_panel=SERVE)
def register_natix(
    context: typer.Context,
    uid: Annotated[int, typer.Argument(min=0, max=65535, help="Of the hotkey; `cascade doctor` names it.")],
    model_repo: Annotated[str, typer.Option(help="Repository of the model on Hugging Face, user/repo.")],
    base_url: Annotated[str, typer.Option(help="Of the registry.")] = BASE_URL,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print the request, signed; send nothing.")] = False,
    config: ConfigOption = None,
    wallet: Annotated[str | None, typer.Option(help="Name of the wallet.")] = None,
    hotkey: Annotated[str | None, typer.Option(help="Name of the hotkey.")] = None,
    change: ChangeOption = None,
    env_file: EnvFileOption = None,
) -> None:
    """Register this miner and its model with NATIX, as the reference miner's register.sh did, and wait for the outcome.

    The hotkey signs the time; the coldkey is not touched. The wallet is that of `cascade mine`.

    Examples: `cascade register-natix 10 --model-repo user/roadwork --dry-run` ·
    `cascade register-natix 10 --model-repo user/roadwork --wallet miner --hotkey one`
    """
    with clear_errors():
        from miner.chain.wallet import load_hotkey  # noqa: PLC0415
        from miner.upstream.natix_registration import register, signed  # noqa: PLC0415

        flags = {"wallet.name": wallet, "wallet.hotkey": hotkey}
        used = settings_of(context, config, parsed_changes(change, flags), env_file)
        key = load_hotkey(used.settings.wallet)
        registration = signed(uid, model_repo, key, now_s=time.time(), base_url=base_url)
        if dry_run:
            say(registration.as_text())
            return
        register(registration, tell=lambda text: typer.echo(text, err=True))
        say(f"uid {uid} is registered with NATIX for {model_repo}")


if __name__ == "__main__":
    sys.exit(app())
