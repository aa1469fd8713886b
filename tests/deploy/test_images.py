"""The two images: what is in them, what is not, and that they run as a cluster would run them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from prometheus_client import CollectorRegistry

from deploy.docker import healthcheck, requirements, slim
from tests.deploy.containers import HARDENED, Container, ContainerFailed, Containers, flags
from tests.deploy.images import Images
from tests.deploy.services import RedisService, start_redis
from tests.deploy.tools import hadolint
from tests.eventually import eventually
from tools import ROOT
from worker.observe.health import HealthServer, Probes, Verdict

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(3000)]

PRODUCER_BYTES = 250_000_000
DOCKERFILES = sorted((ROOT / "deploy" / "docker").glob("*.Dockerfile"))


@pytest.fixture(scope="module")
def redis_service(containers: Containers, images: Images) -> Iterator[RedisService]:
    yield start_redis(containers, images.services())
    containers.remove_containers()


@pytest.fixture(params=["worker", "producer"])
def image(request: pytest.FixtureRequest, images: Images) -> str:
    name: str = getattr(images, request.param)()
    return name


def inside(containers: Containers, image: str, code: str, *options: str) -> str:
    """What a line of Python prints in the image."""
    return containers.once(image, "-c", code, options=(*HARDENED, "--entrypoint", "python", *options))


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_hadolint_has_nothing_to_say(path: Path) -> None:
    done = subprocess.run([hadolint(), path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout


def test_an_image_runs_as_a_user_without_rights_and_says_what_it_is(containers: Containers, image: str) -> None:
    found = containers.inspect("image", image)
    config = found["Config"]
    assert config["User"] == "10001:10001"
    assert config["Labels"]["org.opencontainers.image.title"].startswith("batch-renderer ")
    names = {"title", "description", "licenses", "version", "revision", "base.name"}
    assert {f"org.opencontainers.image.{name}" for name in names} <= set(config["Labels"])
    assert found["HealthCheck" if "HealthCheck" in found else "Healthcheck"]["Test"][0] == "CMD"
    assert config["Entrypoint"][0] in ("celery", "producer")  # exec form: no shell would be process 1
    assert config["WorkingDir"] == "/work"


def test_everything_writable_is_below_one_mount(containers: Containers, image: str) -> None:
    code = (
        "import json, os, tempfile;"
        "print(json.dumps({'uid': os.getuid(), 'temporary': tempfile.gettempdir(), 'home': os.path.expanduser('~'),"
        " 'root': os.access('/', os.W_OK), 'work': os.access('/work', os.W_OK), 'pid': os.getpid()}))"
    )
    found = json.loads(inside(containers, image, code))
    expected = {"uid": 10001, "temporary": "/cache/tmp", "home": "/cache/home", "root": False, "work": False, "pid": 1}
    assert found == expected


def test_any_user_may_run_it(containers: Containers, image: str) -> None:
    """OpenShift gives each namespace a user of its own, in group 0."""
    code = "import tempfile; tempfile.TemporaryFile(); print('works')"
    assert inside(containers, image, code, "--user", "1000650000:0") == "works"


def test_a_cache_that_cannot_be_written_is_named(containers: Containers, image: str) -> None:
    code = "print('goes on')"
    options = ("--read-only", "--read-only-tmpfs=false", "--entrypoint", "sh")
    output = containers.once(image, "-c", f'python -c "{code}" 2>&1', options=options)
    assert output.splitlines() == [
        "container: /cache/home cannot be made (Read-only file system): mount a volume on /cache that user 10001 may "
        "write to",
        "goes on",
    ]


def test_a_container_that_is_stopped_at_once_ends_at_once(containers: Containers, image: str) -> None:
    """Process 1 ignores SIGTERM until it handles it: a worker that still imports torch would have to be killed."""
    container = containers.run(image, "-c", "import time; time.sleep(300)", name="stopped",
                               options=(*HARDENED, "--entrypoint", "python"))  # fmt: skip
    eventually(lambda: container.exec("ls", "/cache").split(), what="Python runs")
    assert container.stop(seconds=120) == 143
    containers.podman("rm", container.name)


def test_the_producer_is_small(containers: Containers, images: Images) -> None:
    assert containers.inspect("image", images.producer())["Size"] < PRODUCER_BYTES


@pytest.mark.parametrize(
    ("which", "absent"),
    [
        ("producer", ("torch", "numpy", "cv2", "celery", "kombu", "onnxruntime", "pip", "setuptools")),
        ("worker", ("diffusers", "transformers", "onnx", "nvidia", "triton", "pip")),
    ],
)
def test_an_image_holds_no_package_that_it_does_not_need(
    containers: Containers, images: Images, which: str, absent: tuple[str, ...]
) -> None:
    code = f"import importlib.util as u; print([name for name in {absent!r} if u.find_spec(name)])"
    assert inside(containers, getattr(images, which)(), code) == "[]"


def test_an_image_holds_no_compiler_and_no_cuda_library(containers: Containers, image: str) -> None:
    names = ("cc", "gcc", "g++", "clang", "tcc", "make", "ld")
    compilers = f"import shutil; print([name for name in {names!r} if shutil.which(name)])"
    assert inside(containers, image, compilers) == "[]"
    libraries = (
        "import pathlib; print([str(p) for p in pathlib.Path('/opt').rglob('*')"
        " if any(w in p.name for w in ('cudart', 'cublas', 'cudnn', 'libcuda', 'nccl', 'nvrtc'))"
        " and '.so' in p.name])"
    )
    assert inside(containers, image, libraries) == "[]"


def test_torch_in_the_worker_is_a_cpu_build(containers: Containers, images: Images) -> None:
    assert inside(containers, images.worker(), "import torch; print(torch.version.cuda)") == "None"


def test_both_commands_are_on_the_workers_path(containers: Containers, images: Images) -> None:
    for command in ("engines", "producer"):
        output = containers.once(images.worker(), "--help", options=(*HARDENED, "--entrypoint", command))
        assert "Usage" in output


def test_modules_are_compiled_in_the_image(containers: Containers, image: str) -> None:
    """A read-only file system keeps nothing that a process compiles, so every start would compile everything again."""
    code = (
        "import jobs.settings, redis, pydantic, pathlib;"
        "print([m.__file__ for m in (jobs.settings, redis, pydantic) if not pathlib.Path(m.__cached__).exists()])"
    )
    assert inside(containers, image, code) == "[]"


@pytest.fixture
def worker(containers: Containers, images: Images, redis_service: RedisService) -> Iterator[Container]:
    """A worker with fake engines, started as the image starts it."""
    with redis.Redis.from_url(redis_service.url_here) as client:
        client.flushall()
    environment = {"RENDER_REDIS_URL": redis_service.url, "RENDER_ENGINE_DIR": "fake:", "RENDER_OUTPUT_URI": "/cache/o"}
    given = (*HARDENED, *flags("--env", environment))
    container = containers.run(images.worker(), name="worker", options=given)
    yield container
    containers.podman("rm", "--force", container.name)


def test_celery_is_process_one_and_health_is_served(containers: Containers, worker: Container) -> None:
    eventually(lambda: "worker_started" in worker.logs(), seconds=120, what="the worker starts")
    words = worker.exec("cat", "/proc/1/cmdline").split("\0")
    assert [Path(word).name for word in words if word][:2] == ["python", "celery"]
    eventually(lambda: containers.is_healthy(worker.name), what="the worker is healthy")
    assert worker.stop(seconds=60) == 0


def test_the_health_check_fails_where_nothing_answers(containers: Containers, image: str) -> None:
    code = "import time; time.sleep(300)"
    container = containers.run(image, "-c", code, name="dead", options=(*HARDENED, "--entrypoint", "python"))
    with pytest.raises(ContainerFailed):
        containers.podman("healthcheck", "run", container.name)
    containers.podman("rm", "--force", "--time", "0", container.name)


@pytest.mark.parametrize(("written", "said"), [
    ("{}", "200: "), (" {} ", "200: "), ("+{}", "200: "), ("", "PORT names no port"), (" 0 ", "PORT names no port"),
])  # fmt: skip
def test_the_health_check_reads_a_port_as_the_settings_do(written: str, said: str) -> None:
    yes = Probes(*([lambda: Verdict(True, "yes")] * 3))
    server = HealthServer("127.0.0.1", 0, probes=yes, registry=CollectorRegistry())
    server.start()
    try:
        command = [sys.executable, healthcheck.__file__, "PORT"]
        environment = os.environ | {"PORT": written.format(server.port)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    finally:
        server.stop()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(said)


def test_an_unknown_extra_is_refused_with_those_that_exist() -> None:
    command = [sys.executable, str(requirements.__file__), str(ROOT / "pyproject.toml"), "gpus"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("EXTRAS: pyproject.toml has no extra 'gpus'; it has cpu, ")


def test_the_build_context_holds_what_the_images_install_and_nothing_else(
    containers: Containers, images: Images, tmp_path: Path
) -> None:
    (tmp_path / "Dockerfile").write_text(f"FROM {images.base()}\nCOPY . /context\nRUN find /context -type f > /list\n")
    containers.command("buildah", "bud", "--format", "docker", "--isolation", "chroot", "--tag", "localhost/context",
                       "--ignorefile", ROOT / ".dockerignore", "--file", tmp_path / "Dockerfile", ROOT)  # fmt: skip
    listed = containers.once("localhost/context", "cat", "/list").splitlines()
    containers.podman("rmi", "localhost/context")
    names = [Path(line).relative_to("/context") for line in listed]
    assert {name.parts[0] for name in names} == {
        "deploy", "engines", "jobs", "producer", "worker", "LICENSE", "README.md", "pyproject.toml",
    }  # fmt: skip
    assert {name.parts[1] for name in names if name.parts[0] == "deploy"} == {"docker"}
    assert not [name for name in names if name.suffix == ".pyc"]


def project() -> dict[str, object]:
    """pyproject.toml's own table."""
    table: dict[str, object] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return table


@pytest.mark.parametrize("extras", [[], ["cpu"], ["gpu"], ["engines", "cpu"], ["engines", "gpu"], ["local", "gpu"]])
def test_every_requirement_of_an_image_is_a_package(extras: list[str]) -> None:
    lines = requirements.requirements(project(), extras)
    assert len(lines) == len(set(lines))
    assert not [line for line in lines if line.startswith("batch-renderer")]
    assert ("torch>=2.11" in lines) == bool(extras)


def test_slimming_removes_tests_and_headers_and_keeps_what_torch_loads(tmp_path: Path) -> None:
    kept = ("torch/bin/torch_shm_manager", "torch/lib/libtorch.so", "numpy/testing/__init__.py", "sympy/core/add.py",
            "botocore/data/s3/x.json", "botocore/data/endpoints.json")  # fmt: skip
    taken = ("torch/test/a.py", "torch/bin/test_jit", "torch/include/a.h", "sympy/core/tests/b.py",
             "botocore/data/ec2/x.json")  # fmt: skip
    for name in (*kept, *taken):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    subprocess.run([sys.executable, slim.__file__, tmp_path, "--without-headers"], check=True, capture_output=True)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert left == set(kept)
