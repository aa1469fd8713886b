"""RemoteRequest: what a monitor asks of workers, in kombu's format (kombu.pidbox.Mailbox._publish).

Any program that can publish in Redis may send anything. A reply goes to a queue of replies and nowhere else: a
request may not make a worker write into the queue of jobs.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from jobs.job import first_problem

# The exchange of replies. The name of each queue of replies ends with it.
REPLIES: Literal["reply.celery.pidbox"] = "reply.celery.pidbox"

Name = Annotated[str, Field(max_length=200)]


class NotUnderstood(Exception):
    """The sentence says what is wrong with a request."""


class ReplyTo(BaseModel):
    """Where the monitor waits for the reply."""

    exchange: Literal["reply.celery.pidbox"]
    routing_key: Annotated[str, Field(pattern=r"^[0-9a-f-]{1,64}$")]


class RemoteRequest(BaseModel):
    """A request. Of kombu's kinds of patterns only `glob` is taken: others can keep a worker busy for hours."""

    model_config = ConfigDict(frozen=True)

    method: Name
    arguments: dict[str, Any] | None = None
    destination: list[Name] | Name | None = None
    pattern: Name | None = None
    matcher: Literal["glob"] | None = None
    reply_to: ReplyTo | None = None
    ticket: Name | None = None

    @classmethod
    def parse(cls, body: Any) -> RemoteRequest:
        """Read the body of a message.

        Raises:
            NotUnderstood: it is not a request.
        """
        try:
            return cls.model_validate(body)
        except ValidationError as error:
            raise NotUnderstood(first_problem(error)) from error

    @property
    def reply_queue(self) -> str | None:
        """The list in Redis where the monitor waits; None: it waits for nothing."""
        return None if self.reply_to is None else f"{self.reply_to.routing_key}.{REPLIES}"

    def is_for(self, node: str) -> bool:
        """Whether a worker of this node name is meant. Without a destination and a pattern all are."""
        if self.destination:
            return node in ([self.destination] if isinstance(self.destination, str) else self.destination)
        return not (self.pattern and self.matcher) or fnmatchcase(node, self.pattern)
