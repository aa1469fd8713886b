"""Every command that README and the docs show is run by a test, or else parsed by the program's own command line.

A command that is in neither list fails, and so does an entry that no page shows any more.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import engines.cli
from engines.console import people
from tests import forked
from tests.forked import ForkedProcess, Template
from tests.models import tiny_engine_set
from tests.pages import PAGES, Command, commands
from tools import ROOT

README = ROOT / "README.md"
ENGINES = ROOT / "docs" / "engines.md"

# Command -> the test that runs it, as file::name.
HERE = "tests/test_docs_commands.py"
README_SESSION = f"{HERE}::test_the_session_in_readme_prints_what_readme_shows"
REPAIR_SESSION = f"{HERE}::test_watching_and_repairing_a_batch"
ENGINES_SESSION = f"{HERE}::test_a_set_is_checked_with_the_output_that_the_page_shows"
RUN = {
    "python examples/photos.py": README_SESSION,
    "celery -A worker worker --concurrency 1": README_SESSION,
    "producer submit examples/jobs.csv": README_SESSION,
    "producer status jobs --watch": README_SESSION,
    "producer results jobs --format csv > results.csv": README_SESSION,
    "producer gallery jobs --out gallery": README_SESSION,
    "producer submit mistakes.csv": README_SESSION,
    "producer submit examples/jobs.csv --dry-run": REPAIR_SESSION,
    "producer submit examples/jobs.csv --wait": REPAIR_SESSION,
    "producer submit jobs.csv": REPAIR_SESSION,
    "producer status": REPAIR_SESSION,
    "producer status --workers": REPAIR_SESSION,
    "producer reconcile": REPAIR_SESSION,
    "producer reconcile jobs": REPAIR_SESSION,
    "producer reconcile --from-storage": REPAIR_SESSION,
    "producer retry jobs": REPAIR_SESSION,
    "producer cancel jobs": REPAIR_SESSION,
    "engines verify engine-set": ENGINES_SESSION,
    "engines inspect engine-set | jq '{backend, precision, architecture, versions}'": ENGINES_SESSION,
    "engines bench engine-set --shape 256x384 --batch 1 --steps 5 --threads 2": ENGINES_SESSION,
    "engines score engine-set torch-set --samples 1 --steps 4": ENGINES_SESSION,
}

FULL_SIZE = "--model sd15-sized/model --controlnet sd15-sized/controlnet"
RANDOM = "--model random-model/model --controlnet random-model/controlnet"
DEMO = "--model examples/demo-model/weights/model --controlnet examples/demo-model/weights/controlnet"
PARSED = {
    # They run the tests themselves.
    "make stress",
    "make test-fast",
    # They install packages, or need the network.
    "pip install .",
    "pip install '.[cpu]'",
    "pip install '.[gpu]'",
    "pip install '.[engines]'",
    "pip install '.[engines,tensorrt]' --extra-index-url https://pypi.nvidia.com",
    "pip install '.[engines,tensorrt-rtx]'",
    "pip install '.[tensorrt-lean]'",
    "pip install -e '.[demo]'",
    "pip install scikit-image",
    "pip install -e '.[demo]' accelerate scikit-learn",
    "engines build --model stable-diffusion-v1-5/stable-diffusion-v1-5 "
    "--controlnet lllyasviel/control_v11p_sd15_canny --shape 512x512 --shape 512x768 --max-batch 8 --out engine-set",
    f"engines build {RANDOM} --shape 256x384 --max-batch 4 --context-chunks 3 --out engine-set",
    "engines build --model control_sd15_canny.pth --original-config cldm_v15.yaml "
    "--tokenizer clip-vit-large-patch14 --shape 512x512 --out engine-set",
    "engines build --model stable-diffusion-v1-5/stable-diffusion-v1-5 "
    "--controlnet lllyasviel/control_v11p_sd15_canny --lora ink.safetensors:0.8 --lora detail.safetensors:-0.5 "
    "--vae stabilityai/sd-vae-ft-mse --embedding cat-toy.pt --embedding learned_embeds.bin:toy --clip-skip 2 "
    "--shape 512x512 --reuse engine-set --out ink-set",
    # They need a GPU.
    f"engines build {RANDOM} --shape 256x384 --max-batch 4 --backend tensorrt --version-compatible --out lean-plans",
    ".venv/bin/python -m pytest -m gpu",
    "python -m pytest -m gpu tests/gpu",
    "python -m pytest -m gpu tests/gpu/test_inductor_sets.py tests/gpu/test_tensorrt_runtime.py",
    "python -m benchmarks.gpu engine-set --only start",
    "python -m benchmarks.gpu engine-set --only steps --only decode --only loop --only path",
    "python -m benchmarks.gpu engine-set --only path --gpus 2",
    "python -m benchmarks.gpu sd15-sized/set --only loop --only path --gpus 2",
    f"python -m benchmarks.gpu sd15-sized/set {FULL_SIZE} --images 48",
    "python -m benchmarks.gpu inductor-set --only steps --only decode --only start",
    "python -m benchmarks.gpu demo-triton --only alike",
    "python -m benchmarks.kernels",
    "python -m benchmarks.kernels --images 1 --only geglu --only attention",
    f"engines build --backend triton {RANDOM} --shape 512x512 --shape 256x384 --max-batch 8 --out engine-set",
    f"engines build --backend triton {FULL_SIZE} --shape 512x512 --shape 256x384 --shape 512x768 --max-batch 8 "
    "--out sd15-sized/set",
    f"engines build --backend triton {DEMO} --shape 256x256 --max-batch 4 --out demo-triton",
    f"engines build --backend triton {FULL_SIZE} --shape 512x512 --max-batch 8 --out fp16",
    f"engines build --backend triton {FULL_SIZE} --shape 512x512 --max-batch 8 --precision fp8 --reuse fp16 --out fp8",
    f"engines build --backend triton --precision fp8 {RANDOM} --shape 512x512 --max-batch 8 --calibrate jobs.csv "
    "--out engine-set-fp8",
    "engines score engine-set-fp8 engine-set --samples 9 --steps 20 --sheet worst.png",
    "python -m benchmarks.gpu fp16 --only steps",
    "python -m benchmarks.gpu fp8 --only steps",
    "python -m benchmarks.gpu fp8 --only path --gpus 2",
    "python -m benchmarks.gpu fp8 --beside fp16 --only steps --only path",
    f"python -m benchmarks.gpu fp8 --beside fp16 {FULL_SIZE} --only steps --only path --only compiled_batches "
    "--only diffusers_batches",
    f"engines build --backend triton {FULL_SIZE} --max-batch 8 --out five-sizes --shape 512x512 --shape 384x512 "
    "--shape 512x384 --shape 320x448 --shape 448x320",
    "python -m benchmarks.gpu five-sizes --only sizes",
    f"engines build --backend triton {FULL_SIZE} --shape 512x512 --max-batch 8 --out models/default",
    *(
        f"engines build --backend triton {FULL_SIZE} --shape 512x512 --max-batch 8 --lora style-{number}.safetensors "
        f"--reuse models/default --out models/{name}"
        for number, name in ((1, "second"), (2, "third"))
    ),
    "python -m benchmarks.random_lora sd15-sized/model style-1.safetensors --seed 1",
    "python -m benchmarks.random_lora sd15-sized/model style-2.safetensors --seed 2",
    "python -m benchmarks.many_models --sets models --size 512 --steps 20 --max-batch 8 --jobs 300",
    *(
        f"python examples/demo-model/evaluate.py --backend triton --precision {precision} --kept evaluation "
        "--only against_float32 --only alone_and_in_batches --only scenes --only photographs"
        for precision in ("fp16", "fp8")
    ),
    "engines verify sd15-sized/set --within 0.01",
    "engines verify inductor-set --within 0.01",
    "engines score demo-triton demo-onnxruntime --samples 4 --steps 20",
    "python examples/demo-model/train.py --out demo-model-weights",
    "python examples/demo-model/train.py --out demo-model-weights --control-seconds 2100",
    "python examples/demo-model/sheet.py --weights demo-model-weights --out sheet.jpg",
    # They take minutes, or gigabytes.
    "make demo",
    "make test",
    "make check",
    "make chaos",
    "make chaos RUNS=10 SEED=1",
    "make fuzz",
    "tools/test.sh tests/worker -k ddim",
    "python -m tools.chaos --jobs 2000 --workers 4 --faults 30 --seed 1",
    "python -m tools.chaos --seed 1 --runs 10",
    "python -m tools.chaos --recovery 7",
    "python -m tools.fuzz --seconds 200 --seed 1",
    "python -m benchmarks.cpu",
    f"python -m benchmarks.cpu {DEMO}",
    "python -m benchmarks.celery_events",
    "python -m benchmarks.load",
    "python -m benchmarks.load --workers 200",
    "python -m benchmarks.producer --rows 100000",
    "python -m benchmarks.producer --rows 100000 --source parquet",
    "python -m benchmarks.soak --engines engine-set",
    "python -m benchmarks.gallery --batches 200",
    "python -m benchmarks.scaling --plot docs/scaling.svg",
    "python -m benchmarks.scaling --counting queued --jobs-per-second 0.02 --jobs 200 --submissions 5 --cooldown 60 "
    "--targets 100",
    "python -m benchmarks.scaling --jobs-per-second 0.3 --cold-start 60 --targets 240 --jobs 600 --submissions 1 "
    "--kill",
    "python -m benchmarks.producer --rows 1000000",
    "python -m pytest -o log_cli=true --log-cli-level=INFO tests/integration/test_schedule_parity.py",
    "python -m pytest -o log_cli=true --log-cli-level=INFO tests/integration/test_parity_end_to_end.py "
    "tests/worker/render/test_parity.py",
    "python examples/demo-model/evaluate.py",
    "python examples/demo-model/evaluate.py --weights demo-model-weights",
    "python examples/random-model/make.py --out random-model --widths 32,64,96,96 --seed 0",
    "python examples/random-model/make.py --full-size --out sd15-sized",
    f"engines build {DEMO} --shape 256x256:512x512 --max-batch 8 --out engine-set",
    f"engines build {RANDOM} --shape 256x384 --max-batch 4 --backend onnxruntime --out engine-set",
    f"engines build {RANDOM} --shape 256x384 --max-batch 4 --backend tensorrt --compute-capability sm89 --out plans",
    f"engines build --backend onnxruntime {DEMO} --shape 256x256 --max-batch 4 --out demo-onnxruntime",
    f"engines build --backend inductor {RANDOM} --shape 512x512 --shape 256x384 --max-batch 8 --jobs 8 "
    "--out engine-set",
    f"engines build --backend inductor {FULL_SIZE} --shape 512x512 --shape 256x384 --max-batch 8 --jobs 14 "
    "--out inductor-set",
    f"engines export {RANDOM} --shape 256x384 --out onnx",
    "engines verify .demo/engine-set",
    "engines bench engine-set",
    # tests/producer/sizes runs them.
    "producer sizes jobs.csv > sizes.json",
    "producer sizes jobs.csv --cover 0.95",
    # They need a bucket.
    "engines push engine-set s3://bucket/sets",
    "engines list s3://bucket/sets",
    "engines pull s3://bucket/sets --into sets",
    # They ask a person, delete what other commands show, or need a bucket. tests/producer runs them.
    "producer delete jobs",
    "producer delete jobs --results",
    "producer delete jobs --force",
    "producer prune --older-than 30d --dry-run",
    "producer prune --older-than 30d --yes",
    "producer submit s3://bucket/folder/jobs.csv",
    # They need files of other kinds. tests/producer runs them.
    "producer submit jobs.tsv",
    "producer submit jobs.jsonl",
    "producer submit jobs.parquet",
    "producer submit photos/ --prompt 'a watercolour'",
    "producer submit --again renders/jobs",
    "jq --compact-output '.[]' jobs.json | producer submit - --input-format jsonl --batch nightly",
    # They serve until they are stopped, name a job of another batch, or change the shell.
    "python -m tools.embedded_redis --port 6379",
    "producer keep",
    "producer cancel jobs 3f2a9c41d07be65810aa",
    ". .venv/bin/activate",
    "export RENDER_REDIS_URL=redis://127.0.0.1:6379/0 RENDER_OUTPUT_URI=renders",
    "export RENDER_ENGINE_DIR=engine-set RENDER_ALLOW_FOLDERS=examples",
    "export RENDER_REDIS_URL='rediss://USER:PASSWORD@redis.example.org:6379/0?ssl_ca_certs=/etc/redis/authority.pem'",
    "cp -r examples/demo-model/weights demo-model-weights",
    "cp .env.example .env",
    "password=$(openssl rand -hex 32)",
    """echo '{"vae": 500, "unet": 500, "control": 600}' > demo-model-weights/progress.json""",
}

# Programs for images, clusters and other machines, whose command lines are not ours: their commands are in no list.
# tests/deploy runs what it can of them.
FOR_CLUSTERS = {"aws", "docker", "kubectl", "trtexec"}

# What these commands end with, where it is not 0.
EXIT_CODES = {"producer submit mistakes.csv": 3}
MISTAKES = """image,prompt,ddim_steps,strength
examples/photos/cat.png,"a cat, watercolour painting",20,1
examples/photos/coffee.png,a red cup,2000,3
"""
PROGRAMS = {"producer": "-m producer", "engines": "-m engines.cli", "celery": "-m celery", "python": ""}


# Each has one mistake; the parser must find it, or it would find none on a page.
WRONG = [
    "producer submit jobs.csv --wiat",
    "producer gallery jobs",
    "producer nothing",
    "engines build --model m --out o",
    "engines bench engine-set --steps none",
    "engines verify a b",
    "celery -A worker worker --concurency 1",
    "python -m benchmarks.cpu --nothing 1",
    "python -m tools.chaos --runs many",
    "python -m tools.nothing",
    "python examples/nothing.py",
    "python -m pytest tests/nothing.py",
    "python -m pytest -m nothing",
    "make nothing",
    "make chaos NOTHING=1",
    "pip install 'batch-renderer[nothing]'",
    "export RENDER_NOTHING=1",
    "export RENDER_MAX_BATCH=none",
    "rm -rf renders",
]


class Shell:
    """Runs the lines of a page as they stand there, in a folder of the test's own that has the examples."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        self.folder = folder
        (folder / "bin").mkdir()
        for name, arguments in PROGRAMS.items():
            program = folder / "bin" / name
            program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
            program.chmod(0o755)
        (folder / "examples").mkdir()
        for name in ("jobs.csv", "photos.py"):
            shutil.copy(ROOT / "examples" / name, folder / "examples")
        self.environment = os.environ | {
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "COLUMNS": "100",
            "RENDER_REDIS_URL": redis_url,
            "RENDER_OUTPUT_URI": "renders",
            "RENDER_ALLOW_FOLDERS": "examples",
            "RENDER_ENGINE_DIR": "fake:",  # everything but the networks is real
        }

    def run(self, line: str) -> str:
        """What a line prints, on both streams; it must end with its exit code."""
        done = subprocess.run(
            ["bash", "-c", line], cwd=self.folder, env=self.environment, timeout=120, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert done.returncode == EXIT_CODES.get(line, 0), f"{line}: {done.returncode}\n{done.stdout}"
        return done.stdout

    def run_forked(self, line: str) -> None:
        """A line that is one command of the producer, forked; it must end with its exit code."""
        program, *arguments = shlex.split(line)
        assert program == "producer"
        done = forked.run("producer", *arguments, environment=self.environment, folder=self.folder)
        assert done.returncode == EXIT_CODES.get(line, 0), f"{line}: {done.returncode}\n{done.stdout}{done.stderr}"

    def run_here(self, line: str) -> str:
        """What a line that is one command of `engines` prints, on both streams; it runs in this process."""
        program, *arguments = shlex.split(line)
        assert program == "engines"
        threads = torch.get_num_threads()
        # The console has the width of the terminal, or none, in which this process imported it.
        wide = patch.object(people, "_width", int(self.environment["COLUMNS"]))
        try:
            with contextlib.chdir(self.folder), wide:
                done = CliRunner().invoke(engines.cli.app, arguments, env=self.environment)
        finally:
            torch.set_num_threads(threads)
        assert done.exit_code == EXIT_CODES.get(line, 0), f"{line}: {done.exit_code}\n{done.output}"
        return done.output

    @contextmanager
    def forked_worker(self) -> Iterator[None]:
        """`celery -A worker worker --concurrency 1`; SIGTERM must end it with 0."""
        with (self.folder / "log").open("wb") as log, Path(os.devnull).open("rb") as nothing:
            process = Template.running("torch").fork(
                "celery",
                ["-A", "worker", "worker", "--concurrency", "1"],
                self.environment,
                folder=self.folder,
                streams=(nothing.fileno(), log.fileno(), log.fileno()),
            )
        with self._stopped(process):
            yield

    @contextmanager
    def _stopped(self, process: subprocess.Popen[bytes] | ForkedProcess) -> Iterator[None]:
        try:
            yield
            process.terminate()
            assert process.wait(60) == 0, (self.folder / "log").read_text()
        finally:
            process.kill()
            process.wait()

    @contextmanager
    def running(self, line: str) -> Iterator[None]:
        """A line that runs until it is stopped; SIGTERM must end it with 0."""
        with (self.folder / "log").open("wb") as log:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {line}"], cwd=self.folder, env=self.environment, stdout=log, stderr=log
            )
        with self._stopped(process):
            yield


@pytest.fixture
def shell(tmp_path: Path, redis_url: str) -> Shell:
    return Shell(tmp_path, redis_url)


@pytest.fixture(scope="module")
def problems() -> dict[str, str | None]:
    """Every command -> why its command line cannot be, or None."""
    shown = sorted(shown_commands() | set(WRONG))
    done = subprocess.run(
        [sys.executable, "-m", "tests.command_lines"], input=json.dumps(shown), cwd=ROOT, text=True, timeout=240,
        capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def shown_commands() -> set[str]:
    return {command.text for page in PAGES for command in commands(page)}


def run_by(test: str) -> set[str]:
    return {command for command, name in RUN.items() if name == test}


def console(page: Path) -> list[Command]:
    """The commands of a page that stand with what they print."""
    return [command for command in commands(page) if command.output is not None]


def test_every_command_is_run_or_parsed() -> None:
    assert not RUN.keys() & PARSED
    ours = {command for command in shown_commands() if command.split()[0] not in FOR_CLUSTERS}
    assert ours - RUN.keys() - PARSED == set(), "in no list: run it in a test, or say why it is parsed only"
    assert (RUN.keys() | PARSED) - shown_commands() == set(), "no page shows these any more"


def test_the_tests_that_run_commands_exist() -> None:
    for node in set(RUN.values()):
        path, _, name = node.partition("::")
        functions = [
            item.name for item in ast.walk(ast.parse((ROOT / path).read_text())) if isinstance(item, ast.FunctionDef)
        ]
        assert name in functions, node


@pytest.mark.parametrize("command", sorted(RUN.keys() | PARSED))
def test_the_command_line_is_right(problems: dict[str, str | None], command: str) -> None:
    assert problems[command] is None


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_command_line_is_found(problems: dict[str, str | None], wrong: str) -> None:
    assert problems[wrong]


def test_the_session_in_readme_prints_what_readme_shows(shell: Shell) -> None:
    (shell.folder / "mistakes.csv").write_text(MISTAKES)
    session = [command for command in console(README) if not command.text.startswith("engines build ")]
    assert {command.text for command in session} | {"celery -A worker worker --concurrency 1"} == run_by(README_SESSION)
    with shell.running("celery -A worker worker --concurrency 1"):
        for command in session:
            assert_shown(shell.run(command.text), command)
    assert (shell.folder / "results.csv").read_text().count(",done,") == 10
    assert (shell.folder / "gallery" / "index.html").is_file()


def test_watching_and_repairing_a_batch(shell: Shell) -> None:
    for name in ("a", "b"):
        Image.new("RGB", (64, 64), "teal").save(shell.folder / "examples" / f"{name}.png")
    (shell.folder / "jobs.csv").write_text("image,prompt\nexamples/a.png,a cat\nexamples/b.png,a cup\n")
    shell.run("python examples/photos.py")
    with shell.forked_worker():
        for command in RUN:
            if command in run_by(REPAIR_SESSION):
                shell.run_forked(command)


@pytest.mark.slow
def test_a_set_is_checked_with_the_output_that_the_page_shows(shell: Shell) -> None:
    for name, backend in (("engine-set", "onnxruntime"), ("torch-set", "torch")):
        # The page's set has one size. In this one the full batch that is verified is of a smaller picture.
        (shell.folder / name).symlink_to(tiny_engine_set(backend, shapes=("64x64:256x384",)))
    session = [command for command in console(ENGINES) if command.text.startswith("engines ")]
    session = [command for command in session if not command.text.startswith("engines build ")]
    assert {command.text for command in session} == run_by(ENGINES_SESSION)
    for command in session:
        # Those that need the model libraries run in this process, which has imported them already.
        run = shell.run if "|" in command.text else shell.run_here
        assert_shown(run(command.text), command, numbers=True)


def assert_shown(printed: str, command: Command, *, numbers: bool = False) -> None:
    """What a command printed is what its page shows; `...` stands for anything.

    Times and digests differ from run to run, with `numbers` all numbers do, and lines are wrapped on the page.
    """
    output = (command.output or "").replace("...", "…")
    expected = re.escape(normal(output, numbers=numbers)).replace("…", ".*")
    assert re.fullmatch(expected, normal(printed, numbers=numbers), re.DOTALL), f"$ {command.text}\n{printed}"


def normal(text: str, *, numbers: bool) -> str:
    text = re.sub(r'"cpu": "[^"]*"', '"cpu": "CPU"', text)
    text = re.sub(r"\b[0-9a-f]{8,}\b", "DIGEST", text)
    text = re.sub(r'\d+(\.\d+)?(?= s\b)|(?<="seconds": )[\d.]+', "N", text)
    if numbers:
        text = re.sub(r"[┏━┳┓┡╇┩└─┴┘]+", "-", text)
        text = re.sub(r"\d+(\.\d+)*(e[+-]?\d+)?", "N", text)
    return re.sub(r"\s+", "", text)
