"""RenderJob, the message: one CSV row, checked, identified and frozen; and RenderResult, what became of it."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from jobs.errors import InvalidJob, NewerMessage

SEED_MAX = 2**32 - 1  # what image tools accept; torch.Generator takes more

DEFAULT_A_PROMPT = "best quality, extremely detailed"
DEFAULT_N_PROMPT = "longbody, lowres, bad anatomy, bad hands, missing fingers"

# Prompts are cut at 77 tokens anyway; the limit keeps a stray file in a cell out of Redis.
Prompt = Annotated[str, Field(max_length=4000)]


class RenderParameters(BaseModel):
    """The parameters of ControlNet's canny2image `process()`, by the same names; one CSV row."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    image: Annotated[str, Field(min_length=1, max_length=4096)]
    prompt: Annotated[str, Field(min_length=1, max_length=4000)]
    a_prompt: Prompt = DEFAULT_A_PROMPT
    n_prompt: Prompt = DEFAULT_N_PROMPT
    num_samples: Annotated[int, Field(ge=1, le=12)] = 1
    image_resolution: Annotated[int, Field(ge=64, le=2048, multiple_of=64)] = 512
    ddim_steps: Annotated[int, Field(ge=1, le=999)] = 20  # 1000 would index past the last of 1000 training steps
    guess_mode: bool = False
    strength: Annotated[float, Field(ge=0.0, le=2.0)] = 1.0
    scale: Annotated[float, Field(ge=0.0, le=30.0)] = 9.0
    seed: Annotated[int, Field(ge=-1, le=SEED_MAX)] = -1
    eta: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    low_threshold: Annotated[int, Field(ge=0, le=255)] = 100
    high_threshold: Annotated[int, Field(ge=0, le=255)] = 200

    @model_validator(mode="after")
    def _thresholds_in_order(self) -> RenderParameters:
        low, high = self.low_threshold, self.high_threshold
        if low > high:
            raise ValueError(f"low_threshold ({low}) must not exceed high_threshold ({high})")
        return self


class RenderJob(BaseModel):
    """One message: what to render, where to write it, and who it is.

    `id` is a function of batch, row and parameters as written (seed -1 included), so the same file submitted again
    names the same jobs. `seed` is the resolved one: drawn from the id where the row says -1.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    id: Annotated[str, Field(pattern=r"^[0-9a-f]{20}$")]
    batch: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    row: Annotated[int, Field(ge=1)]
    output: Annotated[str, Field(min_length=1, max_length=4096)]
    seed: Annotated[int, Field(ge=0, le=SEED_MAX)]
    parameters: RenderParameters

    @classmethod
    def create(cls, parameters: RenderParameters, *, batch: str, row: int, output: str) -> RenderJob:
        """Identify and seed one row. `output` is the batch's output URI, without the batch name."""
        id_ = job_id(parameters, batch=batch, row=row)
        seed = parameters.seed if parameters.seed >= 0 else drawn_seed(id_)
        return cls(id=id_, batch=batch, row=row, output=output, seed=seed, parameters=parameters)

    @classmethod
    def from_json(cls, text: str | bytes) -> RenderJob:
        """Read a message.

        Raises:
            NewerMessage: the version is newer than this program's.
            InvalidJob: not JSON, an unknown key or a value out of range.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            version = _version(text)
            if version > 1:
                raise NewerMessage(f"the job message is of version {version}, and this program reads 1") from error
            raise InvalidJob(f"the job message is not valid: {first_problem(error)}") from error

    @property
    def folder(self) -> str:
        """`<output>/<batch>`: where this job's files go."""
        return f"{self.output.rstrip('/')}/{self.batch}"

    @property
    def sidecar_uri(self) -> str:
        """`<output>/<batch>/<id>.json`, the commit mark."""
        return f"{self.folder}/{self.id}.json"

    @property
    def canny_uri(self) -> str:
        """`<output>/<batch>/<id>_canny.png`."""
        return f"{self.folder}/{self.id}_canny.png"

    def sample_uri(self, sample: int) -> str:
        """`<output>/<batch>/<id>_<sample>.png`; samples count from 0."""
        return f"{self.folder}/{self.id}_{sample}.png"


class RenderResult(BaseModel):
    """What became of a job: the ledger's and the sidecar's record, and a line of `producer results`.

    `parameters` stand in the sidecar alone, which must be enough to render the job again; the ledger does without.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    id: str
    batch: str
    row: int
    state: Literal["done", "failed", "cancelled"]
    image: str
    prompt: str
    seed: int
    samples: tuple[str, ...] = ()  # URIs, one a sample
    canny: str | None = None
    width: int | None = None  # of the rendered pictures, in pixels
    height: int | None = None
    warnings: tuple[str, ...] = ()
    error_kind: str | None = None
    error: str | None = None
    attempts: int = 0
    worker: str | None = None
    engine_set: str | None = None  # the manifest's digest
    finished_at: float | None = None  # seconds since the epoch
    seconds: dict[str, float] = Field(default_factory=dict)  # by stage: fetch, prepare, render, encode, upload
    parameters: RenderParameters | None = None


def _version(text: str | bytes) -> int:
    """The integer that a message gives as its version; 0 if it gives none."""
    try:
        message = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return 0
    version = message.get("version") if isinstance(message, dict) else None
    return version if isinstance(version, int) and not isinstance(version, bool) else 0


def job_id(parameters: RenderParameters, *, batch: str, row: int) -> str:
    """20 hex digits of SHA-256 over batch, row and parameters as canonical JSON."""
    identity = [batch, row, parameters.model_dump()]
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def drawn_seed(id_: str) -> int:
    """The seed of a row that says -1: a function of the job's id, so that a retry renders the same picture."""
    return int.from_bytes(hashlib.sha256(f"seed:{id_}".encode()).digest()[:4], "big")


def first_problem(error: ValidationError) -> str:
    """One sentence for the first of a validation error's problems, without the input when it is long."""
    problem: Any = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in problem["loc"])
    shown = repr(problem.get("input"))
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    return f"{where or 'message'}: {problem['msg']} (got {shown})"
