"""`cascade engines`: the store of bundles, and the engines of this machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from engines.backends.registry import BACKENDS
from engines.spec import REFERENCE, Device, EngineSpec, Precision
from miner.cli.options import (
    DEFAULT_STORE,
    DEFAULT_WORKSPACE,
    PATH,
    ProgressKind,
    StoreOption,
    clear_errors,
    one_of,
    say,
)

engines = typer.Typer(
    name="engines",
    help="Look at the store of bundles, move its pointer, compile and compare engines.",
    no_args_is_help=True,
)

BundleArgument = Annotated[str, typer.Argument(help="Id, or its beginning.")]


@engines.command("list")
def engines_list(store: StoreOption = DEFAULT_STORE) -> None:
    """List the bundles, oldest first; `*` is current, `-` is where a rollback goes, `x` was rolled back."""
    with clear_errors():
        from engines.machine.clock import utc_now  # noqa: PLC0415
        from miner.cli.engines.text import list_bundles  # noqa: PLC0415

        say(list_bundles(store, utc_now()))


@engines.command("show")
def engines_show(bundle: BundleArgument, store: StoreOption = DEFAULT_STORE) -> None:
    """Show a bundle: its certificate in words, its files, where it comes from."""
    with clear_errors():
        from engines.machine.clock import utc_now  # noqa: PLC0415
        from miner.cli.engines.text import show_bundle  # noqa: PLC0415

        say(show_bundle(store, bundle, utc_now()))


@engines.command("activate")
def engines_activate(
    bundle: BundleArgument,
    store: StoreOption = DEFAULT_STORE,
    *,
    although_rejected: Annotated[
        bool, typer.Option("--although-rejected", help="Even if it was rolled back; then it is rejected no more.")
    ] = False,
) -> None:
    """Make a bundle current; a running miner follows without a restart.

    Examples: `cascade engines activate 3f2a` · `cascade engines activate 3f2a --although-rejected`
    """
    with clear_errors():
        from engines.machine.clock import utc_now  # noqa: PLC0415
        from engines.store.store import Store  # noqa: PLC0415

        moved = Store(store).activate(bundle, now=utc_now(), although_rejected=although_rejected)
        say(f"current: {moved.bundle}")


@engines.command("rollback")
def engines_rollback(store: StoreOption = DEFAULT_STORE) -> None:
    """Make the previous bundle current again; no night makes the one that was current so again.

    Example: `cascade engines rollback`
    """
    with clear_errors():
        from engines.machine.clock import utc_now  # noqa: PLC0415
        from engines.store.store import Store  # noqa: PLC0415

        say(f"current: {Store(store).rollback(now=utc_now()).bundle}")


@engines.command("verify")
def engines_verify(bundle: BundleArgument, store: StoreOption = DEFAULT_STORE) -> None:
    """Check a bundle as a miner would before serving it: hashes, binding of the certificate, golden outputs."""
    with clear_errors():
        from miner.cli.engines.text import verify  # noqa: PLC0415

        say(verify(store, bundle))


@engines.command("prune")
def engines_prune(
    keep: Annotated[int, typer.Option(min=1, help="Bundles that stay.")], store: StoreOption = DEFAULT_STORE
) -> None:
    """Remove old bundles; the current one and the one before it always stay. Every night does so too (`gate.keep`).

    Example: `cascade engines prune --keep 5`
    """
    with clear_errors():
        from engines.store.store import Store  # noqa: PLC0415

        gone = Store(store).prune(keep)
        say("\n".join(f"removed {bundle}" for bundle in gone) or "nothing to remove")


@engines.command("describe")
def engines_describe() -> None:
    """Say which engines this machine can run, and why not the others.

    Example: `cascade engines describe`
    """
    with clear_errors():
        from miner.cli.engines.text import available  # noqa: PLC0415

        say(available())


@engines.command("bench")
def engines_bench(
    bundle: BundleArgument,
    store: StoreOption = DEFAULT_STORE,
    rounds: Annotated[int, typer.Option(min=1, help="Times that the engines take turns.")] = 10,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default all cores.")] = None,
    slow: Annotated[bool, typer.Option("--slow", help="Also those that take minutes to compile.")] = False,
    record: Annotated[bool, typer.Option("--record", help="Keep which one auto stands for on this machine.")] = False,
) -> None:
    """Measure a bundle's graph on every engine of this machine: time, and what it changes on the golden images.

    Examples: `cascade engines bench 3f2a` · `cascade engines bench 3f2a --rounds 30 --threads 4`
    """
    with clear_errors():
        from engines.machine.clock import utc_now  # noqa: PLC0415
        from miner.cli.engines.bench import bench  # noqa: PLC0415

        at = utc_now().isoformat(timespec="seconds") if record else ""
        say(bench(store, bundle, rounds=rounds, threads=threads, slow=slow, record=at))


@engines.command("prove")
def engines_prove(
    bundle: Annotated[str, typer.Argument(help="Id, or its beginning; default the current one.")] = "",
    store: StoreOption = DEFAULT_STORE,
    batch: Annotated[list[int] | None, typer.Option(min=1, help="Images of a call; repeatable.")] = None,
    seconds: Annotated[float, typer.Option(min=0, help="That calls of each size are timed for.")] = 3.0,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default all cores.")] = None,
    spec: Annotated[str, typer.Option(help="Another engine than the certified one: BACKEND DEVICE PRECISION.")] = "",
    out: Annotated[Path, typer.Option(help="The file to write.", **PATH)] = Path("proof.json"),
    compare: Annotated[
        tuple[Path, Path] | None, typer.Option(help="Two such files, side by side; nothing is measured.", **PATH)
    ] = None,
) -> None:
    """Prove what the engine of a bundle computes here, how fast, and on what; to be sent where something is wrong.

    The file names no person, host or directory. The status is 1 if the golden images do not come back as they should.

    Examples: `cascade engines prove` · `cascade engines prove 3f2a --batch 1 --batch 8 --spec "openvino cpu fp32"`
    """
    with clear_errors():
        from miner.cli.engines.proof.entry import compare_proofs, write_proof  # noqa: PLC0415

        if compare is not None:
            say(compare_proofs(*compare))
            return
        text, agrees = write_proof(store, bundle, batch or (), seconds, threads, spec, out)
        say(text)
    if not agrees:
        raise typer.Exit(1)


@engines.command("compile")
def engines_compile(
    bundle: BundleArgument,
    data: Annotated[Path, typer.Option(help="Directory with labels.csv, that the bundle was trained on.", **PATH)],
    backend: Annotated[
        str, typer.Option(help=f"Runtime: {', '.join(BACKENDS)}.", parser=one_of(list(BACKENDS)), metavar="NAME")
    ] = REFERENCE.backend,
    precision: Annotated[Precision, typer.Option(help="Of the matrix products.")] = REFERENCE.precision,
    device: Annotated[Device, typer.Option(help="Where it runs.")] = REFERENCE.device,
    workspace: Annotated[Path, typer.Option(help="Where its training is kept.", **PATH)] = DEFAULT_WORKSPACE,
    store: StoreOption = DEFAULT_STORE,
    *,
    activate: Annotated[
        bool,
        typer.Option("--activate", help="Put it in the place of BUNDLE, if that is current."),
    ] = False,
    progress: Annotated[ProgressKind, typer.Option(help="How progress is shown.")] = ProgressKind.AUTO,
) -> None:
    """Compile a bundle's model for another engine, certify it on that engine's numbers, and publish it as a new bundle.

    Nothing is trained; the certificate counts as one more use of the calibration rows. A running miner does this by
    itself, with --activate, for a TensorRT bundle of another GPU, driver or version, if it retrains here
    (`retrain.data`).

    Example: `cascade engines compile 3f2a --data roads/ --backend openvino --precision bf16`
    """
    with clear_errors():
        from miner.cli.retrain.outcome import shown  # noqa: PLC0415
        from offline.night import recompile  # noqa: PLC0415

        spec = EngineSpec(backend=backend, precision=precision, device=device)
        outcome = shown(
            lambda screen: recompile(
                bundle, spec, data=data, workspace=workspace, store=store, activate=activate, progress=screen
            ),
            progress.value,
        )
        if outcome:
            say(outcome)


@engines.command("audit")
def engines_audit(
    bundle: BundleArgument,
    data: Annotated[Path, typer.Option(help="Directory with labels.csv that has the rows of the certificate.")],
    store: StoreOption = DEFAULT_STORE,
    progress: Annotated[ProgressKind, typer.Option(help="How progress is shown.")] = ProgressKind.AUTO,
) -> None:
    """Compute the certificate of a bundle again from its engine and these rows, and say whether it is the same.

    Rows are known by what is in their files, so they may have been renamed. The status is 1 if it is not the same.

    Example: `cascade engines audit 3f2a --data roads/`
    """
    with clear_errors():
        from miner.cli.engines.audit import audited  # noqa: PLC0415
        from miner.progress_display import display  # noqa: PLC0415

        with display(progress.value) as screen:
            equal, text = audited(store, bundle, data, screen)
        say(text)
        if not equal:
            raise typer.Exit(1)


@engines.command("card")
def engines_card(
    bundle: BundleArgument,
    target: Annotated[Path | None, typer.Argument(help="The file to write; default standard output.", **PATH)] = None,
    store: StoreOption = DEFAULT_STORE,
    *,
    hotkey: Annotated[str | None, typer.Option(help="ss58 address of the hotkey; `cascade doctor` names it.")] = None,
    name: Annotated[str | None, typer.Option(help="What the model is called.")] = None,
    description: Annotated[str | None, typer.Option(help="What it does.")] = None,
    version: Annotated[str | None, typer.Option(help="X.Y.Z; default by the order of publication.")] = None,
    renew: Annotated[bool, typer.Option("--renew", help="It is submitted at this time, and its age is 0.")] = False,
) -> None:
    """Write the model_card.json of a bundle, for its repository on Hugging Face; the store keeps it beside the bundle.

    What is not given is as the card beside the bundle says, which every night writes.

    Examples: `cascade engines card 3f2a model_card.json` · `cascade engines card 3f2a --hotkey 5F3s...`
    """
    with clear_errors():
        from engines.machine.clock import utc_now  # noqa: PLC0415
        from miner.cli.engines.card import completed_card  # noqa: PLC0415
        from stage1.artifacts import write_atomic  # noqa: PLC0415

        given = {"model_name": name, "description": description, "version": version, "submitted_by": hotkey}
        card = completed_card(store, bundle, given, now=utc_now(), renew=renew, ask=_asked_for)
        if target is None:
            say(card.to_json().rstrip())
            return
        write_atomic(target, card.to_json().encode())
        say(f"the card of version {card.version} is in {target}")


def _asked_for(what: str) -> str | None:
    """What a person at the terminal says; None where there is none."""
    return str(typer.prompt(what, err=True)).strip() if sys.stdin.isatty() else None


@engines.command("export")
def engines_export(
    bundle: BundleArgument,
    target: Annotated[Path, typer.Argument(help="The file to write, or the directory of models.", **PATH)],
    store: StoreOption = DEFAULT_STORE,
    form: Annotated[
        Literal["tar", "triton"],
        typer.Option("--format", help="One file, or a model repository of Triton, MLServer and OpenVINO Model Server."),
    ] = "tar",
    model: Annotated[str, typer.Option(help="Of a repository: name of the model.")] = "stage1",
    backend: Annotated[
        Literal["auto", "onnxruntime", "tensorrt", "python"],
        typer.Option(help="Of a repository: Triton's backend; `python` where it has no other one."),
    ] = "auto",
    max_batch: Annotated[int, typer.Option(min=1, help="Of a repository: images of the largest batch.")] = 32,
) -> None:
    """Write a bundle into one file, to carry it to another machine, or into the models of a server.

    Examples: `cascade engines export 3f2a bundle.tar` · `cascade engines export 3f2a models --format triton`
    """
    with clear_errors():
        from engines.store.store import Store  # noqa: PLC0415

        if form == "triton":
            from engines.remote.repository.model_repository import export_model  # noqa: PLC0415

            chosen = None if backend == "auto" else backend
            place = Store(store).path(bundle)
            version = export_model(place, target, model=model, backend=chosen, max_batch=max_batch)
            say(f"{place.name} is version {version} of the model {model} in {target}")
            return
        from engines.store.archive import export_bundle  # noqa: PLC0415

        say(f"{export_bundle(Store(store), bundle, target)} is in {target}")


@engines.command("import")
def engines_import(
    source: Annotated[Path, typer.Argument(help="A file that `cascade engines export` wrote.", **PATH)],
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Put a bundle from a file into the store; it does not become current. Import only what you trust.

    Example: `cascade engines import bundle.tar`
    """
    with clear_errors():
        from engines.store.archive import import_bundle  # noqa: PLC0415
        from engines.store.store import Store  # noqa: PLC0415

        bundle = import_bundle(Store(store), source)
        say(f"{bundle} is in {store}; `cascade engines activate {bundle}` makes it current")


@engines.command("push")
def engines_push(
    url: Annotated[str, typer.Argument(help="Of a directory, for example s3://bucket/engines.")],
    bundle: Annotated[str, typer.Argument(help="Id, or its beginning; default the current one.")] = "",
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Put a bundle into another place, where `pull` fetches it; what arrived is read back before it counts.

    Examples: `cascade engines push file:///mnt/engines` · `cascade engines push s3://bucket/engines 3f2a`
    """
    with clear_errors():
        from engines.errors import UnknownBundle  # noqa: PLC0415
        from engines.store.remote_store import push_bundle  # noqa: PLC0415
        from engines.store.store import Store  # noqa: PLC0415

        pointer = Store(store).current()
        if not bundle and pointer is None:
            raise UnknownBundle(f"{store}: no bundle is current; name one")
        wanted = bundle or (pointer.bundle if pointer else "")
        say(f"{push_bundle(Store(store), wanted, url)} is in {url}")


@engines.command("pull")
def engines_pull(
    url: Annotated[str, typer.Argument(help="Where `push` put it.")],
    bundle: Annotated[str, typer.Argument(help="Id, or its beginning; default the one that was published last.")] = "",
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Fetch a bundle from another place into the store; it does not become current. Fetch only what you trust.

    Examples: `cascade engines pull file:///mnt/engines` · `cascade engines pull s3://bucket/engines 3f2a`
    """
    with clear_errors():
        from engines.store.remote_store import pull_bundle  # noqa: PLC0415
        from engines.store.store import Store  # noqa: PLC0415

        made = pull_bundle(Store(store), url, bundle)
        say(f"{made} is in {store}; `cascade engines activate {made}` makes it current")
