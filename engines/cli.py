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

from engines.addition_options import ClipSkip, Embeddings, Loras, Reuse, Vae, added
from engines.backends import registry
from engines.check.sheet_format import refusal
from engines.console import clipping_table, export_table, people, print_json, progress_on, verify_table
from engines.errors import EXIT_CODES, INTERRUPTED, UNEXPECTED, EngineError, sentence_of
from engines.export.sizes import MAX_OPSET, MIN_OPSET, OPSET
from engines.source import NO_ADDITIONS
from engines.spec import MOST_CONTEXT_CHUNKS
from engines.store import commands as store
from engines.typed_path import Set, typed_path

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

Device = Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to run; auto: the GPU, if there is one.")]


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


def _sheet_with_format(path: Path | None) -> Path | None:
    reason = None if path is None else refusal(path)
    if reason is not None:
        raise typer.BadParameter(reason)
    return path


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
Precision = Annotated[Literal["fp16", "fp32", "fp8"] | None, typer.Option(help=f"Without it: {_usual_precisions()}.")]
Calibrate = Annotated[
    Path | None,
    typer.Option(
        parser=typed_path,
        metavar="CSV",
        help="For fp8: what to calibrate with, in the columns image (files) and prompt; the first 64 rows. Without: "
        "random shapes.",
    ),
]
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


def _shapes(context: typer.Context, shapes: list[str] | None) -> list[str] | None:
    if not shapes and context.params.get("sizes") is None:
        context.fail("Missing option '--shape': name at least one, or a file of producer sizes with --sizes.")
    return shapes


@app.command(epilog=EXIT_CODES)
def build(
    model: Model,
    out: Annotated[
        Path,
        typer.Option(
            parser=typed_path,
            metavar="PATH",
            help="Folder that becomes the engine set; replaced whole, when all is built.",
        ),
    ],
    shape: Annotated[
        list[str] | None,
        typer.Option(callback=_shapes, help="HEIGHTxWIDTH in pixels, or a range 256x256:512x768. Repeatable."),
    ] = None,
    sizes: Annotated[
        Path | None,
        typer.Option(
            is_eager=True,  # `_shapes` looks whether it is given
            parser=typed_path,
            metavar="PATH",
            help="What `producer sizes` printed, beside or instead of --shape; - is stdin.",
        ),
    ] = None,
    controlnet: Control = None,
    tokenizer: Tokenizer = None,
    original_config: Config = None,
    lora: Loras = None,
    vae: Vae = None,
    embedding: Embeddings = None,
    clip_skip: ClipSkip = 1,
    max_batch: Annotated[int, typer.Option(min=1, max=256, help="Images in one batch.")] = 8,
    context_chunks: Annotated[
        int,
        typer.Option(
            min=1,
            max=MOST_CONTEXT_CHUNKS,
            help="Pieces of 75 tokens that a prompt may have, for rows with long_prompts chunk.",
        ),
    ] = 1,
    backend: Backend = registry.AUTO,
    precision: Precision = None,
    compute_capability: Capability = None,
    calibrate: Calibrate = None,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="tensorrt: plans that its lean runtime, tensorrt-lean, runs.")
    ] = False,
    jobs: Jobs = None,
    reuse: Reuse = None,
) -> None:
    """Build a set, doing again only what changed; run it at any time.

    engines build --model M --controlnet C --shape 512x512 --max-batch 8 --out engine-set

    engines build --model M --controlnet C --shape 512x512 --precision fp8 --calibrate jobs.csv --out engine-set-fp8
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
        profiles=_profiles_for(chosen, shape or [], sizes, max_batch=max_batch, context_chunks=context_chunks),
        compute_capability=compute_capability,
        tokenizer=tokenizer,
        original_config=original_config,
        calibrate=calibrate,
        jobs=jobs,
        additions=added(lora, vae, embedding, clip_skip),
        version_compatible=version_compatible,
        reuse=tuple(reuse or ()),
    )
    with progress_on(people) as report:
        built = build_set(request, report)
    manifest = built.manifest
    if manifest.schedule is not None and manifest.schedule != SD15:
        people.print(f"noise schedule: {manifest.schedule.differences(SD15)}", markup=False)
    for embedded in manifest.source.embeddings:
        people.print(f"in prompts, {embedded.word!r} stands for {embedded.file}", markup=False)
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
    lora: Loras = None,
    vae: Vae = None,
    embedding: Embeddings = None,
    clip_skip: ClipSkip = 1,
    within: Annotated[
        float | None,
        typer.Option(min=0, help="Accept errors up to this share of a tensor's largest value, too: 0.01 for fp16."),
    ] = None,
    device: Device = "auto",
) -> None:
    """Compare every component with torch in float32; exit code 1 if one is out of tolerance.

    engines verify engine-set
    """
    from engines.check.verify import clipping
    from engines.check.verify import verify as findings_of
    from engines.model.locate import find_weights

    weights = None
    additions = added(lora, vae, embedding, clip_skip)
    if model is None and (additions != NO_ADDITIONS or {controlnet, tokenizer, original_config} != {None}):
        raise typer.BadParameter("name the model as well; without it, all is taken that the set was built from")
    if model is not None:
        weights = find_weights(
            model, controlnet, tokenizer=tokenizer, original_config=original_config, additions=additions
        )
    findings = list(findings_of(path, weights, within=within, device=device))
    people.print(verify_table(findings))
    ok = all(finding.ok for finding in findings)
    clipped = {component: asdict(each) for component, each in clipping(path, device=device).items()}
    if clipped:
        people.print(clipping_table(clipped))
    print_json(
        {"ok": ok, "findings": [finding.to_json() for finding in findings], **({"clipped": clipped} if clipped else {})}
    )
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
        Path,
        typer.Argument(parser=typed_path, help="The set to compare with, of the same weights.", metavar="REFERENCE"),
    ],
    shape: Annotated[str | None, typer.Option(help="HEIGHTxWIDTH. Without: the largest of SET's first.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Pictures, from seeds 0, 1, ...")] = 4,
    steps: Annotated[int, typer.Option(min=1, max=1000, help="DDIM steps.")] = 20,
    at_least: Annotated[float | None, typer.Option(help="Exit code 1 if a picture is below this PSNR, in dB.")] = None,
    inception: Annotated[
        Path | None,
        typer.Option(
            parser=typed_path,
            metavar="PATH",
            help="FID's InceptionV3 weights (pt_inception-2015-12-05-6726825d.pth): PD as well.",
        ),
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(
            parser=typed_path,
            metavar="PATH",
            callback=_sheet_with_format,
            help="Write the worst pictures as a .png, .jpg or .webp: input, edges, both sets', the difference.",
        ),
    ] = None,
    worst: Annotated[int, typer.Option(min=1, max=100, help="Pictures on the sheet.")] = 4,
    device: Device = "auto",
) -> None:
    """Render the same seeds with two sets and compare the pictures: PSNR, SSIM, FLIP and PD; one JSON line.

    PSNR is in dB, SSIM 1 for equal pictures, FLIP 0 (it needs the extra `score`). PD is the distance of Inception
    features that ControlNet's TensorRT port was scored by.

    engines score engine-set-fp16 engine-set-fp32 --samples 4 --at-least 35 --sheet worst.png
    """
    from engines.check.compare import Extras, compare
    from engines.check.perception import has_flip
    from engines.check.score import ScoreRequest
    from engines.console import score_table
    from engines.manifest import load_manifest

    size = load_manifest(path).profiles[0] if shape is None else _one_size(shape)
    request = ScoreRequest(size.max_height, size.max_width, samples, steps)
    compared = compare(path, reference, request, extras=Extras(inception, sheet, worst), device=device)
    lowest = min(each.psnr_db for each in compared)
    summary = "all pictures are equal" if lowest == float("inf") else f"lowest PSNR {lowest:.1f} dB"
    people.print(score_table(compared))
    people.print(f"{len(compared)} pictures of {size.max_height}x{size.max_width}, {steps} steps: {summary}")
    if not has_flip():
        people.print("FLIP was not measured: pip install 'batch-renderer[score]'", markup=False)
    sets = {"set": load_manifest(path).digest, "reference": load_manifest(reference).digest}
    written = {"sheet": None if sheet is None else str(sheet), "pictures": [each.to_json() for each in compared]}
    print_json({"what": "engines score", **sets, **asdict(request), **written})
    if at_least is not None and not lowest >= at_least:
        raise typer.Exit(1)


@app.command(epilog=EXIT_CODES)
def export(
    model: Model,
    out: Annotated[
        Path,
        typer.Option(
            parser=typed_path, metavar="PATH", help="Folder for the files; replaced whole, when all of them hold."
        ),
    ],
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
    lora: Loras = None,
    vae: Vae = None,
    embedding: Embeddings = None,
    clip_skip: ClipSkip = 1,
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
    weights = find_weights(
        model,
        controlnet,
        tokenizer=tokenizer,
        original_config=original_config,
        additions=added(lora, vae, embedding, clip_skip),
    )
    with progress_on(people) as report:
        exported = export_graphs(ExportRequest(weights, out, sizes, opset), report)
    people.print(export_table(exported.comparisons))
    if exported.schedule != SD15:
        people.print(f"noise schedule: {exported.schedule.differences(SD15)}", markup=False)
    for word in exported.words:
        ids = f"{word.ids[0]}" if len(word.ids) == 1 else f"{word.ids[0]} to {word.ids[-1]}"
        people.print(f"in prompts, {word.word!r} stands for {word.file}: tokens {ids} of CLIP.onnx", markup=False)
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


def _profiles_for(
    backend: Any, shapes: list[str], sizes: Path | None, *, max_batch: int, context_chunks: int
) -> tuple[Any, ...]:
    """Those of --shape first: its first one is what bench and score take by themselves."""
    from engines.shapes_file import read_shapes

    named = _profiles(shapes, max_batch, context_chunks)
    if sizes is None:
        return named
    try:
        texts = read_shapes(sizes, ranges=backend.takes_ranges)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--sizes") from error
    more = _profiles(texts, max_batch, context_chunks, option="--sizes")
    return named + tuple(profile for profile in more if profile not in named)


def _profiles(
    shapes: list[str], max_batch: int, context_chunks: int = 1, *, option: str = "--shape"
) -> tuple[Any, ...]:
    from pydantic import ValidationError

    from engines.spec import Profile

    try:
        return tuple(
            Profile.parse(text, max_batch=max_batch, context_chunks=context_chunks) for text in dict.fromkeys(shapes)
        )
    except ValidationError as error:
        raise typer.BadParameter(error.errors()[0]["msg"].removeprefix("Value error, "), param_hint=option) from error
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error


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
    except BaseException as error:  # noqa: BLE001 (libraries in Rust raise errors that are not an Exception)
        if TRACEBACK in sys.argv:
            people.print(traceback.format_exc(), markup=False)
        people.print(f"error: {sentence_of(error)}", markup=False)
        sys.exit(error.exit_code if isinstance(error, EngineError) else UNEXPECTED)


if __name__ == "__main__":
    main()
