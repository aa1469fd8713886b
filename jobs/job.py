"""RenderJob, the message: one CSV row, checked, identified and frozen; and RenderResult, what became of it."""

from __future__ import annotations

import hashlib
import json
import re
from functools import cache
from typing import Annotated, Any, Final, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StrictInt,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from jobs.errors import InvalidJob, NewerMessage
from jobs.prompt_weights import check_weights
from jobs.redaction import redacted

# The newest message that this program reads. A job carries the oldest version that can say what it asks for, so workers
# of before read all jobs that use nothing new: 2 has `engine_set`, 3 the parameters that are not in ALWAYS_IN_ID.
MESSAGE_VERSION: Final = 3
BATCH_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)
JOB_ID = re.compile(r"[0-9a-f]{20}", re.ASCII)
ENGINE_SET = re.compile(r"[0-9a-f]{8,64}", re.ASCII)
MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)
SEED_MAX = 2**32 - 1  # what image tools accept; torch.Generator takes more

DEFAULT_A_PROMPT = "best quality, extremely detailed"
DEFAULT_N_PROMPT = "longbody, lowres, bad anatomy, bad hands, missing fingers"

# The `prompt` of a picture that is rendered without one. RenderParameters and all workers of before refuse "",
# and to CLIP's tokenizer both are the same: it drops spaces.
EMPTY_PROMPT: Final = " "

# The parameters that are URIs of pictures: each may hold a password or a signature.
PICTURES: Final = ("image", "control_image")
# How the files of rendered pictures end, by the parameter `format`.
SAMPLE_ENDINGS: Final = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}

# Prompts are cut at 77 tokens anyway; the limit keeps a stray file in a cell out of Redis.
LONGEST_PROMPT: Final = 4000  # characters
Prompt = Annotated[str, Field(max_length=LONGEST_PROMPT)]


class RenderParameters(BaseModel):
    """The parameters of ControlNet's canny2image `process()`, by the same names; one CSV row.

    To add a parameter, give it a default and leave ALWAYS_IN_ID as it is: rows that do not use the new parameter keep
    their ids (see job_id), so a batch that was submitted before can still be resumed. Where such a parameter has its
    default it is left out of the JSON too, because earlier versions refuse keys that they do not know.

    `model` names one of the engine sets that a worker holds. `control` says how the hint is made: from the picture's
    edges, or not at all because the picture is one. `control_image` is the hint's own picture; `image` then gives the
    size of the rendered pictures and nothing else.
    `format` and `quality` are those of the rendered pictures. `long_prompts` says what becomes of tokens after the
    77th, and `prompt_syntax` whether (word:1.3) is text or a weight.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    image: Annotated[str, Field(min_length=1, max_length=4096)]
    prompt: Annotated[str, Field(min_length=1, max_length=LONGEST_PROMPT)]
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
    model: Annotated[str, Field(pattern=f"^{MODEL_NAME.pattern}$")] | None = None
    control: Literal["canny", "none"] = "canny"
    control_image: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    format: Literal["png", "jpeg", "webp"] = "png"
    quality: Annotated[int, Field(ge=1, le=100)] | None = None
    long_prompts: Literal["cut", "chunk"] = "cut"
    prompt_syntax: Literal["literal", "weighted"] = "literal"

    @property
    def uses_later_parameters(self) -> bool:
        """Whether a parameter that is not in ALWAYS_IN_ID has another value than its default."""
        return any(getattr(self, name) != default for name, default in _later_defaults(type(self)).items())

    def without_secrets(self) -> RenderParameters:
        """As they may be shown and kept beside the results; the same object where no URI has a secret."""
        uris = {name: uri for name in PICTURES if (uri := getattr(self, name)) is not None}
        changed = {name: shown for name, uri in uris.items() if (shown := redacted(uri)) != uri}
        return self.model_copy(update=changed) if changed else self

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = serialize(self)
        for name, default in _later_defaults(type(self)).items():
            if getattr(self, name) == default:
                values.pop(name, None)
        return values

    @model_validator(mode="after")
    def _quality_of_a_lossy_format(self) -> RenderParameters:
        if self.quality is not None and self.format == "png":
            raise ValueError("quality goes with format jpeg or webp; a PNG loses nothing")
        return self

    @model_validator(mode="after")
    def _weights_that_are_rendered(self) -> RenderParameters:
        if self.prompt_syntax == "weighted":
            check_weights(f"{self.prompt}, {self.a_prompt}", "prompt")  # they are read as one
            check_weights(self.n_prompt, "n_prompt")
        return self

    @model_validator(mode="after")
    def _thresholds_in_order(self) -> RenderParameters:
        low, high = self.low_threshold, self.high_threshold
        if low > high:
            raise ValueError(f"low_threshold ({low}) must not exceed high_threshold ({high})")
        return self


# The parameters of the first version. All of them are part of every job's id; later ones only where they are used.
ALWAYS_IN_ID = frozenset(
    {
        "image",
        "prompt",
        "a_prompt",
        "n_prompt",
        "num_samples",
        "image_resolution",
        "ddim_steps",
        "guess_mode",
        "strength",
        "scale",
        "seed",
        "eta",
        "low_threshold",
        "high_threshold",
    }
)


class RenderJob(BaseModel):
    """One message: what to render, where to write it, and the job's identity.

    `id` is a function of batch, row and parameters as written (seed -1 included), so the same file submitted again
    gives the same jobs. `seed` is the resolved one: drawn from the id where the row says -1.

    Older workers refuse keys that they do not know. A change that they cannot read needs a higher `version`: they put
    such messages back for newer workers.

    `engine_set` keeps the job to one engine set: the first 8 or more hex digits of its manifest's digest. It is part of
    the id, and it is left out of the JSON and of the id where it is None.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1, 2, 3] = 1
    id: Annotated[str, Field(pattern=f"^{JOB_ID.pattern}$")]
    batch: Annotated[str, Field(pattern=f"^{BATCH_NAME.pattern}$")]
    row: Annotated[int, Field(ge=1)]
    output: Annotated[str, Field(min_length=1, max_length=4096)]
    seed: Annotated[int, Field(ge=0, le=SEED_MAX)]
    parameters: RenderParameters
    engine_set: Annotated[str | None, Field(pattern=f"^{ENGINE_SET.pattern}$")] = None

    @model_validator(mode="after")
    def _version_says_what_is_used(self) -> RenderJob:
        if self.engine_set is not None and self.version < 2:
            raise ValueError("engine_set needs version 2")
        if self.parameters.uses_later_parameters and self.version < 3:
            raise ValueError("these parameters need version 3")
        return self

    @model_serializer(mode="wrap")
    def _without_what_is_not_used(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = serialize(self)
        if self.engine_set is None:
            values.pop("engine_set", None)
        return values

    @classmethod
    def create(
        cls, parameters: RenderParameters, *, batch: str, row: int, output: str, engine_set: str | None = None
    ) -> RenderJob:
        """Identify and seed one row. `output` is the batch's output URI, without the batch name."""
        id_ = job_id(parameters, batch=batch, row=row, engine_set=engine_set)
        return cls(
            version=3 if parameters.uses_later_parameters else 1 if engine_set is None else 2,
            id=id_,
            batch=batch,
            row=row,
            output=output,
            seed=parameters.seed if parameters.seed >= 0 else drawn_seed(id_),
            parameters=parameters,
            engine_set=engine_set,
        )

    @classmethod
    def from_json(cls, text: str | bytes) -> RenderJob:
        """Read a message.

        Raises:
            NewerMessage: a newer version of this program wrote it.
            InvalidJob: not JSON, an unknown key or version, or a value out of range.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            version = _version(text)
            if version > MESSAGE_VERSION:
                raise NewerMessage(
                    f"the job message has version {version}, and this program reads up to version {MESSAGE_VERSION}: "
                    "update it, or leave the job to newer workers"
                ) from error
            raise InvalidJob(f"the job message is not valid: {first_problem(error)}") from error

    @property
    def folder(self) -> str:
        """`<output>/<batch>`, where this job's files go."""
        return f"{self.output.rstrip('/')}/{self.batch}"

    @property
    def sidecar_uri(self) -> str:
        """`<output>/<batch>/<id>.json`, the commit mark."""
        return f"{self.folder}/{self.id}.json"

    @property
    def canny_uri(self) -> str:
        """`<output>/<batch>/<id>_canny.png`: the hint as the ControlNet gets it, whatever `control` made it from.

        It has one name for all jobs, so that earlier versions find it, show it and delete it.
        """
        return f"{self.folder}/{self.id}_canny.png"

    def sample_uri(self, sample: int) -> str:
        """`<output>/<batch>/<id>_<sample>.png`, or .jpg or .webp by the job's format; samples count from 0."""
        return f"{self.folder}/{self.id}_{sample}{SAMPLE_ENDINGS[self.parameters.format]}"


class RenderResult(BaseModel):
    """What became of a job: the ledger's and the sidecar's record, and a line of `producer results`.

    Only the sidecar has the `parameters`, because a sidecar alone must be enough to render the job again, and
    `built_with`. Fields that a newer version adds are ignored.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    version: Literal[1] = 1
    id: str
    batch: str
    row: int
    state: Literal["done", "failed", "cancelled"]
    image: str
    prompt: str
    seed: int
    samples: tuple[str, ...] = ()  # URIs, one per sample
    canny: str | None = None  # the hint's URI
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
    model: str | None = None  # that the row asks for
    model_name: str | None = None  # of the engine set, for people: no path and no address
    parameters: RenderParameters | None = None
    built_with: dict[str, Any] | None = None  # what was added to the set's model: LoRAs, a VAE, embeddings, clip skip

    @field_validator("prompt")
    @classmethod
    def _empty_prompt_is_shown_as_such(cls, prompt: str) -> str:
        return "" if prompt.isspace() else prompt


def job_id(parameters: RenderParameters, *, batch: str, row: int, engine_set: str | None = None) -> str:
    """20 hex digits of SHA-256 over batch, row, parameters and, where it has one, engine set as canonical JSON.

    Parameters that are not in ALWAYS_IN_ID are left out where they have their default.
    """
    values = parameters.model_dump()
    identity = [batch, row, values] if engine_set is None else [batch, row, values, engine_set]
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


@cache
def _later_defaults(kind: type[RenderParameters]) -> dict[str, Any]:
    """The parameters that are not in ALWAYS_IN_ID, with their defaults."""
    later = {name: field for name, field in kind.model_fields.items() if name not in ALWAYS_IN_ID}
    return {name: field.get_default(call_default_factory=True) for name, field in later.items()}


def drawn_seed(id_: str) -> int:
    """The seed of a row that says -1, as a function of the job's id: a retry renders the same picture."""
    return int.from_bytes(hashlib.sha256(f"seed:{id_}".encode()).digest()[:4], "big")


class _Versioned(BaseModel):
    version: Annotated[StrictInt, Field(lt=2**31)] = 0


def _version(text: str | bytes) -> int:
    """The version that a message claims to have; 0 where it is not JSON or has none."""
    try:
        return _Versioned.model_validate_json(text).version
    except ValidationError:
        return 0


# Problems whose input is the value of an unknown key, or stands where an object should be.
HIDES_INPUT = ("extra_forbidden", "model_type", "json_invalid")


def first_problem(error: ValidationError) -> str:
    """One sentence for the first of a validation error's problems, with long input cut short."""
    problem: Any = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in problem["loc"])
    sentence = f"{where or 'message'}: {problem['msg']}"
    value = problem.get("input")
    if not where or problem["type"] in HIDES_INPUT or isinstance(value, (dict, list)):
        return sentence  # what is not the value of a field that we know may be a secret
    shown = repr(value)
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    return f"{sentence} (got {shown})"
