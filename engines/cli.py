"""`engines`: build, check, inspect, time and copy engine sets. JSON goes to stdout, text for people to stderr.

Commands import what they need: the command line itself starts without torch.
"""

from __future__ import annotations

import sys
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from engines.backends import registry
from engines.console import export_table, people, print_json, progress_on, verify_table
from engines.errors import EXIT_CODES, INTERRUPTED, UNEXPECTED, EngineError, sentence_of
from engines.export.sizes import MAX_OPSET, MIN_OPSET, OPSET
from engines.store import commands as store

TRACEBACK = "--traceback"

app = typer.Typer(
    help="Build, check, look at, time and copy engine sets.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
)

Model = Annotated[
    str, typer.Option(help="Stable Diffusion 1.5: a folder in diffusers' layout, a hub id, or an original single file.")
]
Control = Annotated[
    str | None,
    typer.Option(help="The ControlNet, likewise. Without: the model's controlnet folder, or the single file itself."),
]
Tokenizer = Annotated[
    str | None,
    typer.Option(help="Folder or hub id. Without: the model's; openai/clip-vit-large-patch14 for a single file."),
]
Config = Annotated[
    str | None,
    typer.Option(
        help="Single files: their .yaml, such as cldm_v15.yaml. Without: the .yaml of the model's name beside it; else "
        "SD1.5's sizes and noise schedule."
    ),
]
Set = Annotated[Path, typer.Argument(help="Folder of an engine set.", metavar="SET")]

Device = Annotated[
    Literal["auto", "cpu", "cuda"], typer.Option(help="Where to run; auto: the GPU, where there is one.")
]


def _known_backend(name: str) -> str:
    known = (registry.AUTO, *registry.names())
    if name not in known:
        raise typer.BadParameter(f"{name!r} is not one of {', '.join(map(repr, known))}.")
    return name


def _known_opset(opset: int) -> int:
    if not MIN_OPSET <= opset <= MAX_OPSET:
        raise typer.BadParameter(
            f"{opset} is not one of {MIN_OPSET} to {MAX_OPSET}: torch's exporter knows no attention below "
            f"{MIN_OPSET}, and no operators above {MAX_OPSET}."
        )
    return opset


def _usual_precisions() -> str:
    """'a, b: fp16; c: fp32': backends with the same usual precision stand together."""
    named: dict[str, list[str]] = {}
    for each in registry.backends():
        named.setdefault(each.precision_help, []).append(each.name)
    return "; ".join(f"{', '.join(names)}: {precision}" for precision, names in named.items())


Backend = Annotated[
    str,
    typer.Option(
        callback=_known_backend,
        metavar=f"<{'|'.join((registry.AUTO, *registry.names()))}>",
        help="auto: the best that runs on this machine.",
    ),
]
Precision = Annotated[Literal["fp16", "fp32"] | None, typer.Option(help=f"Without it: {_usual_precisions()}.")]
Capability = Annotated[
    str | None,
    typer.Option(
        help=f"{', '.join(each.name for each in registry.backends() if each.takes_capability)}: the GPU to build for, "
        "such as sm89. Without: the one that is here."
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        min=1,
        help=f"{', '.join(each.name for each in registry.backends() if each.compiles)}: compiling processes. "
        "Without: half as many as cores.",
    ),
]


@app.callback()
def options(
    traceback: Annotated[
        bool, typer.Option(TRACEBACK, help="Before the command: show where an error arose, to report it.")
    ] = False,
) -> None:
    """Build, check, look at, time and copy engine sets."""
    del traceback  # `main` looks for it: an error has left the command by then


@app.command(epilog=EXIT_CODES)
def build(
    model: Model,
    out: Annotated[Path, typer.Option(help="Folder that becomes the engine set; replaced whole, when all is built.")],
    shape: Annotated[list[str], typer.Option(help="HEIGHTxWIDTH in pixels, or a range 256x256:512x768. Repeatable.")],
    controlnet: Control = None,
    tokenizer: Tokenizer = None,
    original_config: Config = None,
    max_batch: Annotated[int, typer.Option(min=1, max=256, help="Images in one batch.")] = 8,
    backend: Backend = registry.AUTO,
    precision: Precision = None,
    compute_capability: Capability = None,
    jobs: Jobs = None,
) -> None:
    """Build a set, doing again only what changed; run it at any time.

    engines build --model M --controlnet C --shape 512x512 --max-batch 8 --out engine-set
    """
    from engines.build.builder import BuildRequest, build_set
    from engines.noise_schedule import SD15

    chosen = registry.choose(backend)
    request = BuildRequest(
        model=model,
        controlnet=controlnet,
        out=out,
        backend=chosen.name,
        precision=precision or chosen.usual_precision(),
        profiles=_profiles(shape, max_batch),
        compute_capability=compute_capability,
        tokenizer=tokenizer,
        original_config=original_config,
        jobs=jobs,
    )
    with progress_on(people) as report:
        built = build_set(request, report)
    manifest = built.manifest
    if manifest.schedule is not None and manifest.schedule != SD15:
        people.print(f"noise schedule: {manifest.schedule.differences(SD15)}", markup=False)
    ended = f"built, {built.steps} stages run" if built.changed else "everything is up to date"
    people.print(f"{out}: {ended}", markup=False)
    print_json({"set": str(out), "backend": manifest.backend, "digest": manifest.digest, "stages_run": built.steps})


@app.command(epilog=EXIT_CODES)
def inspect(path: Set) -> None:
    """Check a set's files and print its manifest.

    engines inspect engine-set | jq .versions
    """
    from engines.file_check import check_files
    from engines.manifest import load_manifest

    manifest = load_manifest(path)
    registry.backend_of(path, manifest)
    check_files(path, manifest.files)
    print_json({"digest": manifest.digest, **manifest.model_dump()})


@app.command(epilog=EXIT_CODES)
def verify(
    path: Set,
    model: Annotated[
        str | None, typer.Option(help="The weights to compare with. Without: those it was built from.")
    ] = None,
    controlnet: Control = None,
    tokenizer: Tokenizer = None,
    original_config: Config = None,
    within: Annotated[
        float | None,
        typer.Option(min=0, help="Accept errors up to this share of a tensor's largest value, too: 0.01 for fp16."),
    ] = None,
    device: Device = "auto",
) -> None:
    """Compare every component with torch in float32; exit code 1 if one is out of tolerance.

    engines verify engine-set
    """
    from engines.check.verify import verify as findings_of
    from engines.model.locate import find_weights

    weights = None
    if model is not None:
        weights = find_weights(model, controlnet, tokenizer=tokenizer, original_config=original_config)
    findings = list(findings_of(path, weights, within=within, device=device))
    people.print(verify_table(findings))
    ok = all(finding.ok for finding in findings)
    print_json({"ok": ok, "findings": [finding.to_json() for finding in findings]})
    if not ok:
        raise typer.Exit(1)


@app.command(epilog=EXIT_CODES)
def bench(
    path: Set,
    shape: Annotated[str | None, typer.Option(help="HEIGHTxWIDTH. Without: the largest of the set's first.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images; the diffusion engines take twice as many rows.")] = 1,
    steps: Annotated[int, typer.Option(min=1, help="Calls that count.")] = 20,
    warmups: Annotated[int, typer.Option(min=0, help="Calls before them.")] = 3,
    device: Device = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads. Without: the library's choice.")] = None,
) -> None:
    """Time every component and a guided step; one JSON line.

    engines bench engine-set --shape 256x384 --batch 4 --threads 2
    """
    from engines.check.bench import BenchRequest
    from engines.check.bench import bench as timings_of
    from engines.engine_set import load_engine_set

    named = None if shape is None else _one_size(shape)
    with load_engine_set(path, device=device, threads=threads) as engines:
        size = named or engines.manifest.profiles[0]
        request = BenchRequest(size.max_height, size.max_width, batch, steps, warmups)
        print_json({**timings_of(engines, request), "threads": threads})


@app.command(epilog=EXIT_CODES)
def score(
    path: Set,
    reference: Annotated[
        Path, typer.Argument(help="The set to compare with, of the same weights.", metavar="REFERENCE")
    ],
    shape: Annotated[str | None, typer.Option(help="HEIGHTxWIDTH. Without: the largest of SET's first.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Pictures, from seeds 0, 1, ...")] = 4,
    steps: Annotated[int, typer.Option(min=1, max=1000, help="DDIM steps.")] = 20,
    at_least: Annotated[float | None, typer.Option(help="Exit code 1 if a picture is below this PSNR, in dB.")] = None,
    device: Device = "auto",
) -> None:
    """Render the same seeds with two sets and compare the pictures: PSNR in dB, one JSON line.

    engines score engine-set-fp16 engine-set-fp32 --samples 4 --at-least 35
    """
    from engines.check.score import ScoreRequest
    from engines.check.score import score as distances_of
    from engines.manifest import load_manifest

    size = load_manifest(path).profiles[0] if shape is None else _one_size(shape)
    request = ScoreRequest(size.max_height, size.max_width, samples, steps)
    distances = distances_of(path, reference, request, device=device)
    lowest = min(distance.psnr_db for distance in distances)
    worst = "all pictures are equal" if lowest == float("inf") else f"lowest PSNR {lowest:.1f} dB"
    people.print(f"{len(distances)} pictures of {size.max_height}x{size.max_width}, {steps} steps: {worst}")
    sets = {"set": load_manifest(path).digest, "reference": load_manifest(reference).digest}
    compared = [distance.to_json() for distance in distances]
    print_json({"what": "engines score", **sets, **asdict(request), "pictures": compared})
    if at_least is not None and not lowest >= at_least:
        raise typer.Exit(1)


@app.command(epilog=EXIT_CODES)
def export(
    model: Model,
    out: Annotated[Path, typer.Option(help="Folder for the files; replaced whole, when all of them hold.")],
    shape: Annotated[
        list[str] | None,
        typer.Option(
            help="HEIGHTxWIDTH in pixels: graphs of that size only. A range 256x256:512x768, several --shape, dynamic, "
            "or none: height and width are dynamic, and the sizes that are named are compared."
        ),
    ] = None,
    opset: Annotated[
        int,
        typer.Option(callback=_known_opset, help=f"Version of ONNX's operators, {MIN_OPSET} to {MAX_OPSET}."),
    ] = OPSET,
    controlnet: Control = None,
    tokenizer: Tokenizer = None,
    original_config: Config = None,
) -> None:
    """Write CLIP.onnx, CONTROL_NET.onnx, CONTROL_UNET.onnx and DECODER.onnx, for TensorRT and other runtimes.

    They have the names of ControlNet's TensorRT ports, batch and prompt are dynamic, and onnxruntime must give what
    torch gives.

    engines export --model M --controlnet C --shape 256x384 --out onnx
    """
    from engines.export.exporter import ExportRequest, export_graphs, require_packages
    from engines.model.locate import find_weights
    from engines.noise_schedule import SD15

    sizes = _sizes(shape or [])
    require_packages()
    weights = find_weights(model, controlnet, tokenizer=tokenizer, original_config=original_config)
    with progress_on(people) as report:
        exported = export_graphs(ExportRequest(weights, out, sizes, opset), report)
    people.print(export_table(exported.comparisons))
    if exported.schedule != SD15:
        people.print(f"noise schedule: {exported.schedule.differences(SD15)}", markup=False)
    print_json({"out": str(out), **exported.to_json()})
    exported.require()
    people.print(f"{out}: opset {opset}, {sizes.text} size, all graphs hold", markup=False)


def _sizes(shapes: list[str]) -> Any:
    from engines.export.sizes import DYNAMIC, Sizes

    named = [shape for shape in shapes if shape.strip().lower() != DYNAMIC]
    return Sizes.of(_profiles(named, 1), dynamic=len(named) < len(shapes))


def _one_size(shape: str) -> Any:
    if ":" in shape:
        raise typer.BadParameter(f"{shape!r} is a range; name one size", param_hint="--shape")
    return _profiles([shape], 1)[0]


def _profiles(shapes: list[str], max_batch: int) -> tuple[Any, ...]:
    from pydantic import ValidationError

    from engines.spec import Profile

    try:
        return tuple(Profile.parse(text, max_batch=max_batch) for text in dict.fromkeys(shapes))
    except ValidationError as error:
        raise typer.BadParameter(
            error.errors()[0]["msg"].removeprefix("Value error, "), param_hint="--shape"
        ) from error
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--shape") from error


app.command(epilog=EXIT_CODES)(store.push)
app.command(epilog=EXIT_CODES)(store.pull)
app.command("list", epilog=EXIT_CODES)(store.list_sets)


def main() -> None:
    """Run a command; any error becomes a sentence on stderr and an exit code (errors.py)."""
    try:
        app()
    except SystemExit:
        raise
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BaseException as error:  # noqa: BLE001 (libraries in Rust end with an error that is no Exception)
        if TRACEBACK in sys.argv:
            people.print(traceback.format_exc(), markup=False)
        people.print(f"error: {sentence_of(error)}", markup=False)
        sys.exit(error.exit_code if isinstance(error, EngineError) else UNEXPECTED)


if __name__ == "__main__":
    main()
