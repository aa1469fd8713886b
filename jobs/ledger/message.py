"""One job as one queue item: the JSON text that Celery's Redis transport expects to pop.

The ledger builds it itself, not through Celery: so the producer can push thousands of jobs a second without importing
Celery, and one atomic script can write the message and the ledger entry. The format is Celery's task protocol 2
(celery.app.amqp.AMQP.as_task_v2) inside kombu's virtual transport envelope (kombu.transport.virtual.Channel
.prepare_message and ._inplace_augment_message). Both have kept it since 2016, and tests/worker/celery/test_app.py
compares it with what Celery itself sends. Only jobs/ledger builds messages; others hand in jobs.
"""

from __future__ import annotations

import json
import os
import time
from functools import lru_cache

from jobs.job import RenderJob

TASK_NAME = "render"

_ID, _TAG, _BODY = "<id>", "<tag>", '"<body>"'
_EMBED = json.dumps({"callbacks": None, "errbacks": None, "chain": None, "chord": None})


def celery_message(job: RenderJob, *, queue: str) -> str:
    """The queue item for one job: see message_for."""
    return message_for(job.id, job.model_dump_json(), queue=queue)


def message_for(job_id: str, job_json: str, *, queue: str) -> str:
    """The queue item for a job that is JSON text already.

    The Celery task id is the job's id, and the one argument is the job's JSON. Each call makes a new delivery tag:
    kombu identifies unacknowledged messages by it, so two copies of a job must differ. It begins with the time, in
    seconds since the epoch as eight hexadecimal digits and a hyphen: scripts/oldest.lua reads it. To all others a tag
    is a text without a meaning, and earlier versions made it of 32 random digits.
    """
    # json.dumps of one string is several times as fast as of nested dictionaries, so the rest is a template.
    body = f"[[{_quoted(job_json)}], {{}}, {_EMBED}]"
    text = _envelope(queue).replace(_ID, job_id).replace(_TAG, f"{int(time.time()):08x}-{os.urandom(12).hex()}")
    return text.replace(_BODY, _quoted(body), 1)  # last: a prompt may contain anything, a placeholder too


def _quoted(text: str) -> str:
    """A JSON string as UTF-8 can hold it. Escaped twice, a Chinese character takes seven bytes; as itself, three."""
    quoted = json.dumps(text, ensure_ascii=False)
    try:
        quoted.encode()
    except UnicodeEncodeError:  # half of a surrogate pair: no text, and it must not stop the text beside it
        return json.dumps(text)
    return quoted


@lru_cache(maxsize=8)
def _envelope(queue: str) -> str:
    """A queue item as JSON text, with placeholders for the job's id, the delivery tag and the (quoted) body."""
    envelope = {
        # Without `body_encoding` kombu takes the body as plain text, which is a quarter shorter than base64.
        "body": "<body>",
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": _headers(_ID),
        "properties": {
            "correlation_id": _ID,
            "reply_to": "",
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": queue},
            "priority": 0,
            "delivery_tag": _TAG,
        },
    }
    return json.dumps(envelope)


def _headers(job_id: str) -> dict[str, object]:
    return {
        "lang": "py",
        "task": TASK_NAME,
        "id": job_id,
        "root_id": job_id,
        "parent_id": None,
        "group": None,
        "shadow": None,
        "eta": None,
        "expires": None,
        "retries": 0,
        "timelimit": [None, None],
        # Shown in Celery's own log lines: never the prompt or the URI, which may hold a secret.
        "argsrepr": f"({job_id})",
        "kwargsrepr": "{}",
        "origin": "producer",
        "ignore_result": True,
    }
