"""Workers as people start them, with options that cannot work here or that have no effect."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from celery.bin.worker import worker as celery_worker

from jobs.ledger.ledger import Ledger
from tests import forked
from tests.eventually import eventually
from tests.integration.conftest import STUB, Site
from tests.jobs.rows import enqueue, make_job
from tests.worker_process import log_events
from tools import ROOT
from worker.celery.options import NO_EFFECT

WORKER = ("-A", "worker", "worker")


SOLO = "celery.concurrency.solo:TaskPool"
GEVENT = (*WORKER, "-Pgevent")
# As a proof that a start with all of its imports does the same.
AFRESH = (GEVENT, (*WORKER, "-P", "solo"), ("-A", "worker", "inspect", "ping"))


@dataclass(frozen=True)
class Refusal:
    """What is typed after `celery`, what the sentence names, and the variables that are set."""

    typed: tuple[str, ...]
    named: tuple[str, ...]
    variables: dict[str, str] = field(default_factory=dict)


REFUSED = [
    *(Refusal((*WORKER, "-P", pool), (f"-P {pool}", "--concurrency 1")) for pool in ("solo", "threads", "processes")),
    # One word, which Celery does not look for when it imports gevent: whether it is installed does not matter.
    Refusal(GEVENT, ("--pool gevent",)),
    Refusal((*WORKER,), ("CELERY_WORKER_POOL solo",), {"CELERY_WORKER_POOL": "solo"}),
    Refusal((*WORKER, "-P", "custom"), ("-P custom",), {"CELERY_CUSTOM_WORKER_POOL": SOLO}),
    Refusal((*WORKER, "-Pcustom"), ("--pool custom",), {"CELERY_CUSTOM_WORKER_POOL": "no.such.module:Pool"}),
    Refusal((*WORKER, "--", "worker_pool=solo"), ("worker_pool=solo",)),
    Refusal((*WORKER, "-Q", "other"), ("-Q other", "RENDER_QUEUE", "(render)")),
    Refusal((*WORKER, "--queues=render,other"), ("--queues render,other", "RENDER_QUEUE")),
    Refusal((*WORKER, "-X", "render"), ("-X render", "RENDER_QUEUE")),
    Refusal((*WORKER, "--purge"), ("--purge", "producer cancel")),
    Refusal((*WORKER, "--detach"), ("--detach", "--logfile")),
    Refusal((*WORKER, "--logfile", "x.log"), ("--detach",), {"CELERY_WORKER_DETACH": "1"}),
    Refusal((*WORKER, "-f", "/no/such/folder/w.log"), ("-f /no/such/folder/w.log",)),
    Refusal((*WORKER, "--pidfile", "/"), ("--pidfile /",)),
    Refusal(("-b", "redis://elsewhere/0", *WORKER), ("--broker", "RENDER_REDIS_URL")),
    Refusal((*WORKER,), ("CELERY_BROKER", "RENDER_REDIS_URL"), {"CELERY_BROKER_URL": "redis://:hunter2@elsewhere/0"}),
    Refusal(("-A", "worker", "beat"), ("celery beat",)),
    Refusal(("-A", "worker", "purge", "-f"), ("celery purge", "producer cancel")),
    Refusal(("-A", "worker", "inspect", "ping"), ("celery inspect", "RENDER_CELERY_EVENTS=true", "producer status")),
    Refusal(("-A", "worker", "control", "shutdown"), ("celery control", "RENDER_CELERY_EVENTS=true", "SIGTERM")),
    Refusal(("-A", "worker", "status"), ("celery status", "RENDER_CELERY_EVENTS=true", "producer status")),
    Refusal(("-A", "worker", "events", "--dump"), ("celery events", "RENDER_CELERY_EVENTS=true")),
    # These would do harm with it too.
    Refusal(("-A", "worker", "purge", "-f"), ("celery purge", "producer cancel"), {"RENDER_CELERY_EVENTS": "true"}),
]


@pytest.fixture
def queued(redis_url: str, ledger: Ledger) -> Iterator[dict[str, str]]:
    """The environment of a worker whose queue holds a job, which must be there afterwards."""
    enqueue(ledger, [make_job()])
    yield {"RENDER_REDIS_URL": redis_url, "RENDER_ENGINE_DIR": "fake:"}
    assert ledger.queue_length() == 1
    assert ledger.client.hlen("unacked") == 0


def celery(*typed: str, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """`celery` as it is typed: afresh where it depends on what Celery does when it is imported."""
    at_import = {"CELERY_CUSTOM_WORKER_POOL", "PYTHONPATH"} & variables.keys()
    if not at_import and typed not in AFRESH:
        return forked.run("celery", *typed, environment=variables)
    return subprocess.run(
        [sys.executable, "-m", "celery", *typed],
        cwd=ROOT, env={**os.environ, **variables}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("refusal", REFUSED, ids=lambda refusal: " ".join((*refusal.typed[2:], *refusal.variables)))
def test_what_cannot_work_is_refused_with_a_sentence_before_a_message_is_taken(
    queued: dict[str, str], refusal: Refusal
) -> None:
    done = celery(*refusal.typed, variables=queued | refusal.variables)
    assert done.returncode == 3
    sentence = done.stderr.splitlines()[-1]  # Celery and click may warn before it, of the user root for instance
    assert sentence.startswith("worker: ")
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    for name in refusal.named:
        assert name in sentence
    assert "hunter2" not in done.stderr


def test_gevents_pool_is_refused_although_celery_has_patched_the_process_by_then(
    queued: dict[str, str], tmp_path: Path
) -> None:
    """A stand-in for the library: Celery imports it and calls its patch before it loads the app."""
    library = tmp_path / "gevent"
    library.mkdir()
    (library / "__init__.py").write_text("class Timeout(Exception): ...\n")
    (library / "monkey.py").write_text("import sys\ndef patch_all(): print('patched', file=sys.stdout)\n")
    (library / "signal.py").write_text("")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = celery(*WORKER, "-P", "gevent", variables={**queued, "PYTHONPATH": path})
    assert done.stdout == "patched\n"
    assert done.returncode == 3
    assert "-P gevent" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("pool", ["gevent", "custom"])
def test_a_pool_whose_library_is_missing_ends_in_celery_itself(
    queued: dict[str, str], pool: str, tmp_path: Path
) -> None:
    """In Python's words: nothing of ours has been loaded yet, and no message is taken."""
    (tmp_path / "gevent.py").write_text("raise ModuleNotFoundError(\"No module named 'gevent'\")\n")
    variables = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]), "CELERY_CUSTOM_WORKER_POOL": "gevent:Pool"}
    done = celery(*WORKER, "-P", pool, variables=queued | variables)
    assert done.returncode == 1
    assert "No module named 'gevent'" in done.stderr


@pytest.mark.parametrize(
    ("typed", "variables"),
    [
        (("-P", "prefork", "-Q", "render", "-X", "other"), {}),
        (("-P", "custom"), {"CELERY_CUSTOM_WORKER_POOL": "worker.celery.pool:GpuPool"}),
        (("--loglevel", "INFO"), {"CELERY_WORKER_CONCURRENCY": "1"}),
    ],
)
def test_options_that_say_what_is_so_change_nothing(
    site: Site, typed: tuple[str, ...], variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    site.afresh = bool(variables)  # Celery reads some when it is imported
    jobs = site.enqueue(3)
    worker = site.start(arguments=typed)
    site.wait_until_done(3)
    site.assert_all_done_once(jobs)
    worker.terminate()
    assert worker.exit_code() == 0
    assert worker.events("option_ignored") == []


NO_EFFECT_TYPED = {
    "--concurrency": "4", "--prefetch-multiplier": "7", "--disable-prefetch": "", "--autoscale": "5,2", "-O": "fair",
    "--max-tasks-per-child": "1", "--max-memory-per-child": "1", "--time-limit": "0.1", "--soft-time-limit": "0.1",
    "-E": "", "--without-gossip": "", "--without-mingle": "", "--without-heartbeat": "", "--heartbeat-interval": "1",
    "--statedb": "state", "-B": "", "-s": "schedule", "--scheduler": "no.such:Scheduler",
}  # fmt: skip


def test_options_without_effect_get_one_line_each_and_have_none(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    variable = "CELERY_RESULT_BACKEND"
    monkeypatch.setenv(variable, "no-such-scheme://")
    monkeypatch.setenv("RENDER_MAX_BATCHES", "4")
    site.enqueue(8, seconds=600)
    typed = [word for option, value in NO_EFFECT_TYPED.items() for word in (option, value) if word]
    worker = site.start(arguments=typed, jobs_in_flight=4)
    eventually(lambda: site.ledger.counts("b").running == 4)
    assert sorted(event["option"] for event in worker.events("option_ignored")) == sorted((*NO_EFFECT_TYPED, variable))
    assert all(event["why"] and event["level"] == "warning" for event in worker.events("option_ignored"))
    (ignored,) = worker.events("variable_ignored")
    assert (ignored["variable"], "RENDER_MAX_BATCH?" in ignored["why"]) == ("RENDER_MAX_BATCHES", True)
    eventually(lambda: [len(beat.in_flight) for beat in site.ledger.workers().values()] == [4])
    assert site.ledger.queue_length() == 4
    assert not list(ROOT.glob("state*")) + list(ROOT.glob("schedule*"))


def test_the_table_of_options_without_effect_names_celerys_own_parameters() -> None:
    """An older Celery lacks a few; a name that none has would be a mistake of ours."""
    newer = {"pool_start_method"}
    assert set(NO_EFFECT) - newer <= {parameter.name for parameter in celery_worker.params}
    typed = {
        parameter.name for parameter in celery_worker.params if set(parameter.opts) & set(NO_EFFECT_TYPED)
    }  # fmt: skip
    assert typed == set(NO_EFFECT) - newer


def test_celerys_own_commands_see_a_worker_whose_setting_says_so(site: Site) -> None:
    worker = site.start(celery_events="true")
    (job,) = site.enqueue(1, seconds=600)
    eventually(lambda: site.ledger.counts("b").running == 1)
    variables = {"RENDER_REDIS_URL": site.redis_url, "RENDER_CELERY_EVENTS": "true"}
    (name,) = site.ledger.workers()
    dump = [sys.executable, "-m", "celery", "-A", "worker", "events", "--dump"]
    with subprocess.Popen(
        dump, cwd=ROOT, env={**os.environ, **variables, "PYTHONUNBUFFERED": "1"}, text=True, stdout=subprocess.PIPE
    ) as events:
        assert events.stdout is not None
        assert any(f"{name}@" in line and "heartbeat" in line for line in events.stdout)
        events.kill()
    status = celery("-A", "worker", "status", variables=variables)
    assert (status.returncode, f"{name}@" in status.stdout, "1 node online" in status.stdout) == (0, True, True)
    active = celery("-A", "worker", "inspect", "active", "--json", variables=variables)
    assert job.id in active.stdout
    assert site.picture.name not in active.stdout
    refused = celery("-A", "worker", "control", "shutdown", variables=variables)
    assert "refused: shutdown: SIGTERM stops a worker" in refused.stdout
    assert worker.alive
    assert site.ledger.counts("b").running == 1


def test_a_log_file_gets_every_line_and_is_opened_again_when_it_was_moved_away(site: Site, tmp_path: Path) -> None:
    worker = site.start(arguments=["--logfile", str(tmp_path / "%n.log"), "-n", "w7@here"])
    log = tmp_path / "w7.log"
    eventually(lambda: [event for event in log_events(log) if event["event"] == "worker_started"])
    log.rename(tmp_path / "old.log")
    site.enqueue(1)
    site.wait_until_done(1)
    worker.terminate()
    assert worker.exit_code() == 0
    assert {"job_done", "worker_stopped"} <= {event["event"] for event in log_events(log)}
    assert "{" not in worker.output  # all lines are in the files


@pytest.mark.parametrize(
    ("typed", "settings", "shown", "ignored"),
    [
        ("warning", {}, False, []),
        ("error", {"log_level": "INFO"}, True, ["--loglevel"]),
    ],
)
def test_the_log_level_is_celerys_option_unless_the_setting_is_given(
    site: Site, typed: str, settings: dict[str, str], shown: bool, ignored: list[str]
) -> None:
    worker = site.start(arguments=["--loglevel", typed], **settings)
    site.enqueue(1)
    site.wait_until_done(1)
    worker.terminate()
    assert worker.exit_code() == 0
    assert bool(worker.events("worker_stopped")) is shown
    assert [event["option"] for event in worker.events("option_ignored")] == ignored


def test_celery_multi_starts_workers_that_log_into_their_files_and_are_stopped_by_their_pid(
    redis_url: str, ledger: Ledger, tmp_path: Path
) -> None:
    pid, log = tmp_path / "w1.pid", tmp_path / "w1.log"
    files = [f"--pidfile={tmp_path}/%n.pid", f"--logfile={tmp_path}/%n%I.log"]
    variables = {"RENDER_REDIS_URL": redis_url, "RENDER_OUTPUT_URI": str(tmp_path / "out")}
    refused = celery("multi", "start", "w1", "-A", STUB, "-P", "solo", *files, variables=variables)
    assert "-P" in refused.stderr
    assert "this program's own pool" in refused.stderr
    assert "exit code 3" in refused.stdout  # its own is 0
    assert not pid.exists()

    started = celery("multi", "start", "w1", "-A", STUB, *files, variables=variables)
    assert started.returncode == 0, started.stdout + started.stderr
    try:
        eventually(lambda: [event for event in log_events(log) if event["event"] == "worker_started"])
        process = int(pid.read_text())
        # What a C library or Python itself prints has no terminal any more.
        assert Path(f"/proc/{process}/fd/2").readlink() == log
        os.kill(process, signal.SIGTERM)
        eventually(lambda: not pid.exists())
    finally:
        with suppress(OSError, ValueError):
            os.kill(int(pid.read_text()), signal.SIGKILL)
    eventually(lambda: [event for event in log_events(log) if event["event"] == "worker_stopped"])
