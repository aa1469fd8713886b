"""Settings: one frozen object per process. No other file reads the environment."""

from __future__ import annotations

import ipaddress
import re
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.request import getproxies_environment

from pydantic import Field, ValidationError
from pydantic.functional_validators import AfterValidator, BeforeValidator
from pydantic_settings import BaseSettings, EnvSettingsSource, NoDecode, SettingsConfigDict

from jobs.errors import SettingsError
from jobs.redis_url import checked_url

MIB = 2**20
HOST_NAME = re.compile(r"[^\s/:@*?#\[\]\\]+")
BUCKET_NAME = re.compile(r"[^\s/*?]+")
LONGEST_SECONDS = 1_000_000  # eleven days; sockets and threads cannot wait for more than some twenty


def _comma_separated(value: Any) -> Any:
    """`a,b` -> ('a', 'b'), as people write lists in the environment."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _as_parsed(hosts: tuple[str, ...]) -> tuple[str, ...]:
    """As urlsplit gives them: in lower case, and an IPv6 address without its brackets."""
    return tuple(map(_host_alone, map(str.lower, hosts)))


def _host_alone(host: str) -> str:
    """A name or an address. Anything else would match no host, without an error."""
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not HOST_NAME.fullmatch(bare) and not _is_address(bare):
        raise ValueError(f"{host!r} is not a host's name or address alone: leave out scheme, port, path and *")
    return bare


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _buckets_alone(buckets: tuple[str, ...]) -> tuple[str, ...]:
    """Anything but a name would match no bucket, without an error."""
    for bucket in buckets:
        if not BUCKET_NAME.fullmatch(bucket):
            raise ValueError(f"{bucket!r} is not a bucket's name alone: leave out s3://, prefix and *")
    return buckets


def _header_comment(contact: str) -> str:
    """What may stand between the parentheses of a User-Agent. A line break would begin a header of its own."""
    contact = contact.strip()
    if len(contact) > 200 or not all(" " <= letter <= "~" and letter not in "()\\" for letter in contact):
        raise ValueError("must be a URL or a mail address: at most 200 ASCII characters on one line, no parentheses")
    return contact


def _without_tilde(folder: str) -> str:
    """A container's user may have no home."""
    try:
        return str(Path(folder).expanduser())
    except RuntimeError as error:
        raise ValueError("~ stands for a home that this user does not have: name the folder in full") from error


CommaSeparated = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_comma_separated)]
Buckets = Annotated[CommaSeparated, AfterValidator(_buckets_alone)]
RedisUrl = Annotated[str, AfterValidator(checked_url)]
Hosts = Annotated[CommaSeparated, AfterValidator(_as_parsed)]
Contact = Annotated[str, AfterValidator(_header_comment)]
Folder = Annotated[str, Field(min_length=1), AfterValidator(_without_tilde)]
Seconds = Annotated[float, Field(le=LONGEST_SECONDS)]


class Settings(BaseSettings):
    """Every variable that the producer and the worker read, with its unit in its name.

    S3 is configured by the standard AWS_* variables, which boto3 reads itself.
    """

    model_config = SettingsConfigDict(env_prefix="RENDER_", frozen=True, extra="ignore")

    redis_url: RedisUrl = Field("redis://127.0.0.1:6379/0", description="Redis: redis://, rediss:// or unix://")
    queue: str = Field("render", pattern=r"^[A-Za-z0-9._-]+$", description="name of the queue in Redis")
    output_uri: str = Field("output", min_length=1, description="where results go: a folder, file:// or s3://")

    engine_dir: Folder = Field("engine-set", description="the engine set that workers load, or a folder of several")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where engines run")
    threads: int | None = Field(None, ge=1, le=1024, description="CPU threads of the engines (default: all cores)")
    max_batch: int | None = Field(None, ge=1, description="samples in one engine call (default: the engine set's)")
    low_vram: bool = Field(False, description="never hold diffusion and text/decoder engines together")
    cache_dir: Folder | None = Field(None, description="what workers learn at run time (default: not kept)")
    sets_resident: int | None = Field(None, ge=1, description="engine sets on the device (default: half its memory)")

    jobs_in_flight: int = Field(16, ge=1, le=512, description="jobs in flight per worker; also the prefetch")
    visibility_timeout_seconds: int = Field(3600, ge=5, description="until Redis redelivers an unacknowledged message")
    heartbeat_seconds: Seconds = Field(3.0, gt=0, description="between two heartbeats of a worker")
    lease_seconds: Seconds = Field(10.0, gt=0, description="silence after which a worker counts as dead")
    grace_seconds: Seconds = Field(30.0, ge=0, description="for finishing running samples after SIGTERM")
    max_attempts: int = Field(3, ge=1, description="starts of one job before it is failed or quarantined")
    reconcile_seconds: Seconds = Field(5.0, gt=0, description="between two reconciliations while waiting")

    keep_days: float | None = Field(None, gt=0, description="producer keep deletes older batches from Redis")

    fetch_timeout_seconds: Seconds = Field(30.0, gt=0, description="for one input, from start to end")
    fetch_max_bytes: int = Field(64 * MIB, ge=1, le=2**40, description="largest input file")
    fetch_per_host: int = Field(8, ge=1, le=512, description="requests at once to one host, per process")
    fetch_contact: Contact = Field("", description="a URL or mail address that the User-Agent names")
    proxy_resolves: bool = Field(False, description="the HTTP proxy refuses private addresses itself")
    max_pixels: int = Field(50_000_000, ge=1, description="largest input picture, before resizing")
    allow_hosts: Hosts = Field((), description="hosts that may have private addresses, comma-separated")
    allow_folders: CommaSeparated = Field((), description="folders of file:// that workers may read and write")
    allow_buckets: Buckets = Field((), description="buckets that workers may read and write (default: any)")
    retry_attempts: int = Field(4, ge=1, le=1000, description="tries of one fetch before the job is put off")
    retry_base_seconds: Seconds = Field(0.5, ge=0, description="first pause between tries; doubles each time")

    metrics_port: int | None = Field(None, ge=0, le=65535, description="for /metrics and /healthz (default: off)")
    metrics_host: str = Field("127.0.0.1", min_length=1, description="address that metrics and health listen on")
    keep_host: str = Field("127.0.0.1", min_length=1, description="address that `producer keep` listens on")
    keep_port: int = Field(9808, ge=0, le=65535, description="for the page, metrics and health of `producer keep`")
    keep_names: Hosts = Field((), description="names by which browsers may call `producer keep`, comma-separated")
    celery_events: bool = Field(False, description="Celery's own monitors see the workers")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="least severe line logged")
    log_format: Literal["json", "console"] = Field("json", description="log lines for machines or people")


class AwsIdentity(BaseSettings):
    """The AWS_* variables that say as whom and where boto3 reads and writes. It reads them itself; none is a secret."""

    model_config = SettingsConfigDict(env_prefix="AWS_", frozen=True, extra="ignore")

    access_key_id: str | None = None
    profile: str | None = None
    role_arn: str | None = None
    endpoint_url: str | None = None
    endpoint_url_s3: str | None = None


def proxy_variables() -> dict[str, str]:
    """The standard proxy variables that are set, by the words before `_proxy`: http, https, all, no.

    Lower case goes before upper case, and an empty value unsets. In a CGI script HTTP_PROXY is a client's header
    `Proxy:`, and is ignored.
    """
    return getproxies_environment()


def misspelt_variables() -> dict[str, str]:
    """Variables that no setting has, and that are called almost like one -> that one.

    Others that begin with RENDER_ may be somebody else's: Kubernetes and hosting services set some.
    """
    known = [f"RENDER_{name}".upper() for name in Settings.model_fields]
    others = {name.upper() for name in EnvSettingsSource(Settings).env_vars} - set(known)
    near = {name: get_close_matches(name, known, n=1, cutoff=0.85) for name in sorted(others)}
    return {name: matches[0] for name, matches in near.items() if matches and name.startswith("RENDER_")}


def load_settings(**overrides: Any) -> Settings:
    """Read the environment; `overrides` win.

    Raises:
        SettingsError: a bad value; the sentence names the variable.
    """
    try:
        settings = Settings(**overrides)
    except ValidationError as error:
        raise SettingsError("; ".join(_sentence(problem) for problem in error.errors())) from error
    if settings.lease_seconds < 2 * settings.heartbeat_seconds:
        raise SettingsError(
            f"RENDER_LEASE_SECONDS ({settings.lease_seconds:g}) must be at least twice RENDER_HEARTBEAT_SECONDS "
            f"({settings.heartbeat_seconds:g}), or live workers would count as dead"
        )
    return settings


def _sentence(problem: Any) -> str:
    variable = "RENDER_" + str(problem["loc"][0]).upper()  # the rest is an index in a list
    # A URL's password must not reach a log through an error text.
    shown = "" if variable == "RENDER_REDIS_URL" else f" (got {problem['input']!r})"
    return f"{variable}: {problem['msg'].removeprefix('Value error, ')}{shown}"
