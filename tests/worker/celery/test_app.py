from __future__ import annotations

import base64
import json
import os
import subprocess
import sys

import pytest
import redis
from kombu import Connection

from jobs.ledger.message import celery_message
from jobs.settings import load_settings
from tests.jobs.rows import make_job
from tools import ROOT
from worker.celery.app import broker_url, configuration, make_app
from worker.celery.pool import GpuPool
from worker.celery.transport import TolerantTransport


def test_the_app_takes_json_from_one_list_acknowledges_late_and_keeps_no_results() -> None:
    app = make_app(load_settings(queue="q", jobs_in_flight=7, visibility_timeout_seconds=99))
    conf = app.conf
    assert (conf.task_acks_late, conf.task_reject_on_worker_lost, conf.task_ignore_result) == (True, True, True)
    assert (conf.accept_content, conf.result_backend, conf.task_default_queue) == (["json"], None, "q")
    assert (conf.worker_prefetch_multiplier, conf.worker_concurrency) == (7, 1)
    options = conf.broker_transport_options
    assert options["visibility_timeout"] == 99
    assert (options["priority_steps"], options["sep"], options["queue_order_strategy"]) == ([0], ":", "priority")
    assert [task for task in app.tasks if not task.startswith("celery.")] == ["render"]


def test_making_the_app_connects_nowhere_and_loads_no_engine() -> None:
    code = (
        "import sys; from jobs.settings import load_settings; from worker.celery.app import make_app;"
        "make_app(load_settings(redis_url='redis://192.0.2.1/0', engine_dir='/nowhere'));"
        "assert 'torch' not in sys.modules and 'engines.engine_set' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60)


def test_importing_the_package_loads_no_celery() -> None:
    code = "import sys, worker; assert not [name for name in sys.modules if name.split('.')[0] in ('celery', 'torch')]"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60)


@pytest.mark.parametrize(
    ("url", "host", "port", "database"),
    [
        ("redis://127.0.0.1:6380/3", "127.0.0.1", 6380, "3"),
        ("redis://user:p%40ss@redis/0", "redis", None, "0"),
        ("rediss://:pw@redis:6379/1?ssl_check_hostname=true", "redis", 6379, "1"),
        ("redis://redis?db=2&socket_timeout=5", "redis", None, "2"),
    ],
)
def test_brokers_are_reached_through_the_tolerant_transport(url: str, host: str, port: int, database: str) -> None:
    make_app(load_settings())
    connection = Connection(broker_url(url))
    assert isinstance(connection.transport, TolerantTransport)
    assert (connection.hostname, connection.port, connection.virtual_host) == (host, port, database)
    assert "p@ss" not in connection.as_uri()


def test_a_unix_socket_is_reached_through_the_tolerant_transport() -> None:
    make_app(load_settings())
    connection = Connection(broker_url("unix:///run/redis/redis.sock?db=2"))
    assert isinstance(connection.transport, TolerantTransport)
    assert connection.hostname == "socket:///run/redis/redis.sock?virtual_host=2"


def test_rediss_verifies_certificates() -> None:
    conf = configuration(load_settings(redis_url="rediss://redis/0"))
    assert conf["broker_use_ssl"] == {"ssl_cert_reqs": "required", "ssl_check_hostname": True}
    assert configuration(load_settings(redis_url="redis://redis/0"))["broker_use_ssl"] is False


def test_the_pools_size_is_the_concurrency_given_whatever_the_jobs_in_flight() -> None:
    app = make_app(load_settings(jobs_in_flight=64))
    assert GpuPool(1, app=app).num_processes == 1


def test_the_producers_message_is_what_celery_itself_sends(redis_url: str) -> None:
    """Field by field, except for those that say who sent it and when."""
    app = make_app(load_settings(redis_url=redis_url, queue="q"))
    job = make_job()
    app.send_task("render", [job.model_dump_json()], task_id=job.id, ignore_result=True)
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        theirs = json.loads(client.rpop("q"))
    ours = json.loads(celery_message(job, queue="q"))
    body = base64.b64decode(theirs["body"]).decode()
    assert theirs["properties"].pop("body_encoding") == "base64"
    assert json.loads(body) == json.loads(ours["body"])
    assert (ours["content-type"], ours["content-encoding"]) == (theirs["content-type"], theirs["content-encoding"])
    assert set(ours["properties"]) == set(theirs["properties"])
    known = set(ours["headers"])
    differing = {"argsrepr", "origin"}
    assert {k: theirs["headers"][k] for k in known - differing} == {k: ours["headers"][k] for k in known - differing}
    # What Celery adds and the worker does not need.
    assert set(theirs["headers"]) - known <= {
        "group_index", "replaced_task_nesting", "stamped_headers", "stamps", "parent_id",
    }  # fmt: skip


def test_a_bad_setting_is_one_sentence_and_its_own_exit_code() -> None:
    environment = {**os.environ, "RENDER_REDIS_URL": "redis://:hunter2@h", "RENDER_MAX_ATTEMPTS": "none"}
    done = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "worker", "worker"],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 3
    assert "RENDER_MAX_ATTEMPTS" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "hunter2" not in done.stderr
