"""The servers that our containers talk to: Redis with a password, and an S3 store, each a container of its own."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

import boto3
import redis

from tests.deploy.containers import Container, Containers
from tests.eventually import eventually

REGION = "us-east-1"
ACCESS_KEY = "tester"  # tools/s3server's
START_SECONDS = 1000.0  # tools/s3server gives up earlier, and says why


@dataclass(frozen=True)
class RedisService:
    """Redis as a cluster has it: with a password, and an append-only file."""

    container: Container
    password: str

    @property
    def url(self) -> str:
        """For other containers."""
        return f"redis://:{self.password}@redis:6379/0"

    @property
    def url_here(self) -> str:
        """For this machine."""
        return f"redis://:{self.password}@{self.container.address}:6379/0"


@dataclass(frozen=True)
class S3Service:
    """An S3 store with one bucket."""

    container: Container
    secret: str
    bucket: str = "render"

    def environment(self, endpoint: str = "http://s3:7070") -> dict[str, str]:
        """The AWS_* variables that reach it; by default those for other containers."""
        return {
            "AWS_ENDPOINT_URL_S3": endpoint,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": self.secret,
        }

    @property
    def endpoint_here(self) -> str:
        """Its URL for this machine."""
        return f"http://{self.container.address}:7070"

    def client(self) -> Any:
        """A boto3 client on this machine."""
        return boto3.session.Session(ACCESS_KEY, self.secret, region_name=REGION).client(
            "s3", endpoint_url=self.endpoint_here
        )

    def read(self, uri: str) -> bytes:
        """The object that an s3:// URI names."""
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        body: bytes = self.client().get_object(Bucket=bucket, Key=key)["Body"].read()
        return body


def start_redis(containers: Containers, image: str) -> RedisService:
    """Start Redis, and wait until it answers."""
    password = secrets.token_hex(16)
    configuration = f"requirepass {password}\nbind 0.0.0.0\ndir /data\nappendonly yes\n"
    script = 'printf "%s" "$CONFIGURATION" > /data/redis.conf; exec redis-server /data/redis.conf'
    container = containers.run(
        image, "-ec", script, name="redis",
        options=("--entrypoint", "sh", "--user", "redis", "--volume", "/data", "--env",
                 f"CONFIGURATION={configuration}"),
    )  # fmt: skip
    service = RedisService(container, password)
    eventually(lambda: _answers(service.url_here), seconds=START_SECONDS, what="Redis answers")
    return service


def start_s3(containers: Containers, image: str) -> S3Service:
    """Start the store, wait until it answers, and make the bucket."""
    secret = secrets.token_hex(16)
    container = containers.run(image, name="s3", options=("--env", f"ROOT_SECRET_KEY={secret}"))
    service = S3Service(container, secret)

    def answers() -> bool:
        assert container.running, f"the S3 store has ended:\n{container.logs()[-3000:]}"
        return "AWS_ENDPOINT_URL_S3" in container.logs()

    eventually(answers, seconds=START_SECONDS, what="the S3 store answers")
    service.client().create_bucket(Bucket=service.bucket)
    return service


def _answers(url: str) -> bool:
    try:
        with redis.Redis.from_url(url, socket_timeout=2) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False
