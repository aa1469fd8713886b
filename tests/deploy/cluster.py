"""Our Kubernetes documents, run by podman: Redis, an S3 store, keep and workers, each in a container."""

from __future__ import annotations

import copy
import json
import secrets
import time
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.containers import HARDENED, Container, Containers, flags, get
from tests.deploy.images import Images
from tests.deploy.overlays import rendered
from tests.deploy.services import RedisService, S3Service, start_redis, start_s3
from tests.eventually import eventually
from tools.demo import MODEL, SHAPES

WORKER, KEEP = "batch-renderer-worker", "batch-renderer-keep"
METRICS_PORT, KEEP_PORT = 9807, 9808
START_SECONDS = 180.0


class Cluster:
    """Starts the services and renders the overlay; `apply` starts one of its Deployments."""

    def __init__(self, containers: Containers, images: Images) -> None:
        self._containers = containers
        self._images = images
        services = images.services()
        self.redis: RedisService = start_redis(containers, services)
        self.s3: S3Service = start_s3(containers, services)
        self.sets = f"s3://{self.s3.bucket}/engine-sets"
        self.output = f"s3://{self.s3.bucket}/renders"
        aws = self.s3.environment()
        containers.secret("batch-renderer-redis", {"RENDER_REDIS_URL": self.redis.url})
        containers.secret("batch-renderer-s3", {name: aws[name] for name in aws if "KEY" in name})
        self._settings = {
            "ENGINE_SETS": self.sets,
            "ENGINE_DIGESTS": "",
            "RENDER_OUTPUT_URI": self.output,
            "RENDER_ALLOW_BUCKETS": self.s3.bucket,
            **{name: aws[name] for name in aws if "KEY" not in name},
        }
        self._documents = self._rendered()

    # -- commands in containers ---------------------------------------------------------------------------------

    def producer(self, *arguments: str, seconds: float = 600) -> str:
        """Run a `producer` command in its image; returns its stdout."""
        return self._once(self._images.producer(), *arguments, seconds=seconds)

    def build_set(self) -> dict[str, Any]:
        """Build the demo's engine set and push it, as the build Job does; returns what `engines push` said."""
        volume = f"built-{self._containers.suffix}"
        arguments = (
            *("--model", "/models/model", "--controlnet", "/models/controlnet", "--shape", SHAPES, "--max-batch", "8"),
            *("--backend", "onnxruntime", "--precision", "fp32", "--out", "/sets/set"),
        )
        options = ("--entrypoint", "engines", "--volume", f"{MODEL}:/models:ro", "--volume", f"{volume}:/sets")
        builder = self._images.builder()
        self._once(builder, "build", *arguments, options=options)
        pushed: dict[str, Any] = json.loads(self._once(builder, "push", "/sets/set", self.sets, options=options))
        return pushed

    def _once(self, image: str, *arguments: str, options: tuple[str, ...] = (), seconds: float = 600) -> str:
        environment = {
            "RENDER_REDIS_URL": self.redis.url,
            "RENDER_OUTPUT_URI": self.output,
            "OMP_NUM_THREADS": "2",
            **self.s3.environment(),
        }
        given = (*HARDENED, *flags("--env", environment), *options)
        return self._containers.once(image, *arguments, options=given, seconds=seconds)

    # -- the overlay --------------------------------------------------------------------------------------------

    def apply(self, deployment: str, *, name: str | None = None) -> Container:
        """Start a Deployment of the overlay, under another `name` for a second one; returns its main container."""
        chosen = copy.deepcopy([each for each in self._documents
                                if each["kind"] == "ConfigMap" or each["metadata"]["name"] == deployment])  # fmt: skip
        name = name or deployment
        for document in chosen:
            if document["kind"] == "Deployment":
                document["metadata"]["name"] = name
                document["spec"]["replicas"] = 1
        path = self._containers.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump_all(chosen))
        self._containers.podman("kube", "play", "--log-driver", "k8s-file", "--network", self._containers.network, path)
        return Container(self._containers, self._main_container(name))

    def start_again(self, container: Container) -> None:
        """Start a pod whose container has ended, as a Deployment would start another one."""
        self._containers.podman("pod", "start", self._containers.inspect("container", container.name)["Pod"])

    def _rendered(self) -> list[dict[str, Any]]:
        """The overlay's documents, with this cluster's addresses in the ConfigMap."""
        documents = copy.deepcopy(list(rendered("overlays/podman")))
        for document in documents:
            if document["kind"] == "ConfigMap":
                document["data"].update(self._settings)
        return documents

    def _main_container(self, deployment: str) -> str:
        """The name of the container that is neither podman's own nor an init container."""
        listed = self._containers.podman("ps", "--all", "--format", "{{.Names}}").split()
        part = "keep" if KEEP in deployment else "worker"
        (name,) = [each for each in listed if each.startswith(f"{deployment}-pod") and each.endswith(f"-{part}")]
        return name

    # -- looking at a pod ---------------------------------------------------------------------------------------

    def status(self, container: Container, path: str) -> int:
        """The status that a pod's probe answers; 0 where nothing answers."""
        port = KEEP_PORT if KEEP in container.name else METRICS_PORT
        return get(self.address(container), port, path)[0]

    def answers(self, container: Container, path: str) -> bool:
        """Whether a pod's probe answers 200."""
        return self.status(container, path) == 200

    def wait_until_ready(self, container: Container) -> None:
        """Ask /readyz as the kubelet does, until it answers 200."""

        def ready() -> bool:
            time.sleep(0.1)
            assert container.running or container.state["Status"] == "created", container.logs()[-3000:]
            return self.answers(container, "/readyz")

        eventually(ready, seconds=START_SECONDS, what=f"{container.name} is ready")

    def address(self, container: Container) -> str:
        """The pod's address: the network is that of podman's own container in the pod."""
        pod = self._containers.inspect("container", container.name)["Pod"]
        infra = json.loads(self._containers.podman("pod", "inspect", pod))["InfraContainerID"]
        return Container(self._containers, infra).address

    def memory(self, container: Container) -> dict[str, int]:
        """Bytes of the container's first process: resident now, and at most so far."""
        lines = container.exec("cat", "/proc/1/status").splitlines()
        fields = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith("Vm")}
        return {"resident": int(fields["VmRSS"]) * 1024, "peak": int(fields["VmHWM"]) * 1024}


def jobs_csv(rows: int, *, image: str, steps: int) -> str:
    """A CSV of small jobs, each with a prompt of its own."""
    header = "image,prompt,image_resolution,ddim_steps,seed"
    return "\n".join(
        [header, *(f"{image},a house {row} {secrets.token_hex(2)},256,{steps},{row}" for row in range(rows))]
    )


def upload(cluster: Cluster, folder: Path, prefix: str) -> None:
    """Put a CSV's folder into the bucket: jobs.csv and its photographs."""
    client = cluster.s3.client()
    for path in [folder / "jobs.csv", *sorted((folder / "photos").iterdir())]:
        client.upload_file(str(path), cluster.s3.bucket, f"{prefix}/{path.relative_to(folder)}")
