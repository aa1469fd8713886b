"""What to say when Redis does not answer, or answers that it will not do it: a sentence that says what to do."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator

import redis

# What Redis says -> what to do. Redis begins an answer with a word in capitals. redis-py drops some of these words and
# makes classes of them; where a script ran, the word stands in the middle of the text.
_SENTENCES = (
    (
        r"MISCONF",
        "Redis cannot write its data to disk, so it refuses every change: make room on the disk that its `dir` setting "
        "names, or make that folder writable; its log says more",
    ),
    (
        r"\bOOM\b|OutOfMemoryError",
        "Redis has used all the memory that it may, so it refuses every change: raise its `maxmemory`, or remove what "
        "is not needed any more from it",
    ),
    (
        r"READONLY|ReadOnlyError",
        "RENDER_REDIS_URL names a replica of Redis, which can only be read: name the server that it replicates",
    ),
    (
        r"MASTERDOWN|MasterDownError",
        "RENDER_REDIS_URL names a replica of Redis, and the server that it replicates is away: name that server",
    ),
    (
        r"NOREPLICAS",
        "Redis has fewer replicas than its `min-replicas-to-write` asks for, so it refuses every change: start them "
        "again, or lower that setting",
    ),
    (r"\bLOADING\b|BusyLoadingError", "Redis is still reading its data from disk: try again when it has started"),
    (
        r"NOAUTH|Authentication required|without any password configured",
        "Redis does not accept the login in RENDER_REDIS_URL: it wants a password (redis://:PASSWORD@host:port/0) "
        "and the URL has none, or it has no password and the URL gives one",
    ),
    (r"AuthenticationError", "Redis refuses the user or the password in RENDER_REDIS_URL"),
    (
        r"NOPERM|NoPermissionError|user executing the script can't|ACL failure",
        "the user in RENDER_REDIS_URL lacks a permission in Redis: give it all commands on the keys render* and the "
        "queue's name, and workers also unacked* and _kombu* (ACL SETUSER name +@all ~render* ~unacked* ~_kombu*); "
        "with RENDER_CELERY_EVENTS also *.reply.celery.pidbox and the channels /* (~*.reply.celery.pidbox &/*)",
    ),
    (
        r"\bMOVED|\bASK\b|AskError|MovedError|CROSSSLOT|CLUSTERDOWN|ClusterDownError|ClusterCrossSlotError",
        "RENDER_REDIS_URL names a Redis Cluster, which cannot hold the queue: use a standalone Redis",
    ),
    (
        r"WRONGTYPE",
        "a key of the ledger holds something else in this Redis (WRONGTYPE), so another program uses the same "
        "database: name another one in RENDER_REDIS_URL",
    ),
    (r"\bBUSY\b", "Redis is busy with a script that does not end: SCRIPT KILL in redis-cli stops it"),
    (
        r"DENIED|protected mode",
        "Redis is in protected mode and refuses other machines: give it a password, and name it in RENDER_REDIS_URL",
    ),
    (r"DB index is out of range|invalid DB index", "Redis has no database of the number in RENDER_REDIS_URL"),
    (
        r"max number of clients",
        "Redis takes no more connections: raise its `maxclients`, or stop programs that are connected to it",
    ),
    (
        r"[Uu]nknown (Redis )?command",
        "the server that RENDER_REDIS_URL names does not know a command that is needed: use Redis 6.2 or later",
    ),
)
_IN_SCRIPT = re.compile(r"Error running script \(call to \w+\): |@?user_script: ?\d+: |script: \w+, on .*$")


def why_unavailable(error: Exception) -> str:
    """A sentence for the user about a server that did not answer, or refused, without the URL's password."""
    if isinstance(error, redis.RedisError):
        said = f"{type(error).__name__} {getattr(error, 'status_code', None)} {error}"
        for pattern, sentence in _SENTENCES:
            if re.search(pattern, said):
                return sentence
    if isinstance(error, redis.ResponseError):
        return f"Redis refused a request: {_IN_SCRIPT.sub('', str(error)).strip()}"
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return (
                f"the certificate of Redis is not valid: {cause.verify_message.rstrip('.')}; name its authority "
                "with ssl_ca_certs=FILE in RENDER_REDIS_URL"
            )
        if isinstance(cause, ssl.SSLError):
            return "Redis does not speak TLS there, as rediss:// in RENDER_REDIS_URL says"
    return f"Redis does not answer ({type(error).__name__}): check that it runs and that RENDER_REDIS_URL names it"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
