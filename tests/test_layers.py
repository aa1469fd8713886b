"""The arrows of the layout: producer -> jobs <- worker -> engines, what each layer may know, and no circles.

Every path named here must exist: a rule about a file that has moved fails, instead of holding for nothing.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterable
from functools import cache
from pathlib import Path

import pytest

from tools import ROOT
from tools.figures import PACKAGES as ALL_PACKAGES
from tools.import_graph import Graph, circles, import_graph, imported_names, module_name, python_files

PACKAGES = {"jobs", "producer", "worker", "engines"}

# Package -> which of our packages it may import besides itself.
ARROWS = {"jobs": set[str](), "engines": set[str](), "producer": {"jobs"}, "worker": {"jobs", "engines"}}

# The one exception: engine sets are pushed to and pulled from the storage that results go to. One file is the door.
EXCEPTIONS = {("engines.store.bucket", f"jobs.{name}") for name in ("storage", "errors", "uri")}

# Package -> third-party packages that it must never import: they are heavy, or belong to another layer.
NEVER = {
    "jobs": {"torch", "celery", "kombu", "billiard", "numpy", "cv2", "onnxruntime", "tensorrt", "diffusers"},
    "producer": {
        "torch", "celery", "kombu", "billiard", "numpy", "cv2", "onnxruntime", "tensorrt", "diffusers", "transformers",
    },
    "engines": {"celery", "kombu", "billiard", "redis", "boto3", "botocore"},
    "worker": {"boto3", "botocore"},
}  # fmt: skip

# Third-party packages -> the only folder of the worker that may import them.
CELERY = {"celery", "kombu", "billiard"}
CELERY_FOLDER = "worker/celery"

# The core of the worker knows neither the queue nor the storage. Of jobs/ it may know the message, the errors and how
# a URI may be shown, what a prompt is warned of and how its weights are read, and how large a picture is drawn. Folders
# count with all their files.
CORE = ("worker/render", "worker/image", "worker/prepare.py")
NOT_IN_CORE = {"celery", "kombu", "billiard", "redis", "boto3", "botocore", "urllib3"}
CORE_JOBS = {"jobs.errors", "jobs.job", "jobs.uri", "jobs.prompts", "jobs.prompt_weights", "jobs.picture_size"}
DOOR_TO_THE_ENGINES = "worker/render/denoiser.py"
DATA_OF_THE_ENGINES = ("engines.spec", "engines.noise_schedule")

# Inside engines/, lowest first: a layer may import itself and what stands above it in this list. What is not named
# here is shared by all layers (a device, a progress bar), and may import only what is shared.
ENGINE_LAYERS = (
    "engines/model",
    "engines/sampler",
    "engines/backends",
    "engines/fit.py",
    "engines/engine_set.py",
    "engines/build",
    "engines/check",
    "engines/export",
    "engines/console.py",
    "engines/store",
    "engines/cli.py",
)

# Path -> paths of the same package that it must not import.
APART = {
    "jobs/errors.py": ("jobs",),
    "jobs/uri.py": ("jobs/ledger", "jobs/storage", "jobs/settings.py"),
    "jobs/job.py": ("jobs/ledger", "jobs/storage", "jobs/settings.py"),
    "jobs/storage": ("jobs/ledger", "jobs/submission.py"),
    "producer/table": ("producer/cli.py", "producer/console.py", "producer/submit.py", "producer/gallery"),
    "producer/gallery": ("producer/cli.py", "producer/submit.py"),
    "worker/render": ("worker/celery", "worker/observe", "worker/service.py", "worker/job_runner.py"),
    "worker/image": ("worker/celery", "worker/observe", "worker/render"),
    "worker/job_runner.py": ("worker/celery", "worker/service.py"),
    "worker/in_flight.py": ("worker/celery", "worker/service.py", "worker/job_runner.py"),
}

# kombu's own keys in Redis: the names and layout belong to one folder on our side, and to the transport.
KOMBU_KEYS = ("unacked", "_kombu")
MAY_NAME_KOMBU_KEYS = ("jobs/ledger", "worker/celery")

# These set variables that other libraries read; they take no setting of ours from there.
WRITE_FOR_LIBRARIES = {"engines/model/libraries.py", "engines/backends/triton/kernel_cache.py"}


def files_of(*names: str) -> list[Path]:
    """The files of packages, folders and single files; fails if one of them is gone."""
    return [path for name in names for path in ([file_at(name)] if name.endswith(".py") else python_files(name))]


def file_at(name: str) -> Path:
    path = ROOT / name
    assert path.is_file(), f"{name} is gone: say here where its rule now belongs"
    return path


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def top_level(names: Iterable[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def offences(paths: Collection[Path], forbidden: Collection[str]) -> list[str]:
    return [
        f"{relative(path)}: {name}"
        for path in paths
        for name in sorted(top_level(imported_names(path)) & set(forbidden))
    ]


@cache
def product() -> Graph:
    return import_graph(sorted(PACKAGES))


def arrows_between(source: str, targets: Collection[str]) -> list[str]:
    """The imports from the files of one path into those of others."""
    into = {module_name(path) for path in files_of(*targets)}
    starts = [module_name(path) for path in files_of(source)]
    return [f"{start} -> {end}" for start in starts for end in sorted(product()[start] & (into - set(starts)))]


@pytest.mark.parametrize("package", sorted(ARROWS))
def test_a_package_imports_only_where_its_arrows_point(package: str) -> None:
    allowed = {package, *ARROWS[package]}
    wrong = [
        f"{module} -> {other}"
        for module, others in product().items()
        if module.partition(".")[0] == package
        for other in sorted(others)
        if other.partition(".")[0] not in allowed and not excepted(module, other)
    ]
    assert wrong == []
    assert offences([p for p in python_files(package) if not may_import_storage(p)], PACKAGES - allowed) == []


def excepted(module: str, other: str) -> bool:
    return any(module == source and f"{other}.".startswith(f"{target}.") for source, target in EXCEPTIONS)


def may_import_storage(path: Path) -> bool:
    return module_name(path) in {source for source, _ in EXCEPTIONS}


@pytest.mark.parametrize("package", sorted(NEVER))
def test_a_package_leaves_out_what_belongs_to_another_layer(package: str) -> None:
    assert offences(python_files(package), NEVER[package]) == []


def test_only_the_celery_folder_knows_celery_kombu_and_billiard() -> None:
    inside = set(files_of(CELERY_FOLDER))
    assert offences([path for path in python_files("worker") if path not in inside], CELERY) == []


@pytest.mark.parametrize("part", CORE)
def test_the_workers_core_knows_neither_queue_nor_storage(part: str) -> None:
    for path in files_of(part):
        assert offences([path], NOT_IN_CORE) == []
        ours = {name for name in imported_names(path) if name.startswith("jobs.") and name.count(".") == 1}
        assert ours <= CORE_JOBS, relative(path)


def test_the_denoiser_is_the_only_door_to_the_engines() -> None:
    door = file_at(DOOR_TO_THE_ENGINES)
    for path in files_of(*CORE):
        if path != door:
            ours = {name for name in imported_names(path) if name.partition(".")[0] == "engines"}
            # These are data, without torch, that everyone may import.
            assert {name for name in ours if not name.startswith(DATA_OF_THE_ENGINES)} == set(), relative(path)


@pytest.mark.parametrize("layer", ENGINE_LAYERS)
def test_a_layer_of_the_engines_imports_only_lower_ones(layer: str) -> None:
    higher = ENGINE_LAYERS[ENGINE_LAYERS.index(layer) + 1 :]
    assert arrows_between(layer, higher) == []


def test_what_all_engine_layers_share_imports_none_of_them() -> None:
    layered = set(files_of(*ENGINE_LAYERS))
    shared = [path for path in python_files("engines") if path not in layered and path.name != "__init__.py"]
    found = [arrow for path in shared for arrow in arrows_between(relative(path), ENGINE_LAYERS)]
    assert found == []


@pytest.mark.parametrize("source", sorted(APART))
def test_parts_of_a_package_that_do_not_know_each_other(source: str) -> None:
    assert arrows_between(source, APART[source]) == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circles(import_graph(ALL_PACKAGES)) == []


def test_only_the_ledger_and_the_transport_name_kombus_keys() -> None:
    allowed = {path for folder in MAY_NAME_KOMBU_KEYS for path in files_of(folder)}
    found = [
        f"{relative(path)}:{node.lineno} {node.value!r}"
        for package in sorted(PACKAGES)
        for path in python_files(package)
        if path not in allowed
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith(KOMBU_KEYS)
    ]
    assert found == []


def test_only_settings_reads_the_environment() -> None:
    for name in WRITE_FOR_LIBRARIES:
        file_at(name)
    readers = {"os.environ", "os.getenv", "os.environb"}
    found = {relative(path) for package in PACKAGES for path in python_files(package) if reads(path, readers)}
    assert found - WRITE_FOR_LIBRARIES == set()


def reads(path: Path, names: Collection[str]) -> bool:
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    attributes = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return bool((attributes | imported_names(path)) & set(names))


def test_nothing_happens_when_the_packages_are_imported() -> None:
    """No calls at module level beyond definitions: nothing connects, reads or prints by being imported."""
    suspicious = {"print", "open", "connect", "load_settings", "exec", "eval"}
    found = []
    for package in sorted(PACKAGES):
        for path in python_files(package):
            body = ast.parse(path.read_text(encoding="utf-8")).body
            statements = [
                node.value for node in body if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
            ]
            found += [f"{path.name}: {ast.unparse(call)}" for call in statements if called(call) in suspicious]
    assert found == []


def called(call: ast.Call) -> str:
    return ast.unparse(call.func).rpartition(".")[2]
