"""The ledger's keys in Redis, all under `render:`.

    batches                 hash   batch -> BatchInfo as JSON
    batch:<name>:states     hash   job id -> '<state> <attempts> [<worker> <since>]' or 'superseded <attempts> <state>',
                                   or 'queued <attempts> delayed' where an entry of delayed:<queue> is the job's message
    batch:<name>:counts     hash   state -> number of jobs
    batch:<name>:jobs       hash   job id -> RenderJob as JSON, until done
    batch:<name>:results    hash   job id -> RenderResult as JSON, once terminal
    batch:<name>:rows       hash   row -> id of the job that the row stands for now
    batch:<name>:row_prefixes set  what stands before the numbers of rows, by file (BatchInfo.row_prefix)
    batch:<name>:superseded hash   job id -> RenderResult as JSON, of earlier versions of corrected rows that had ended
    batch:<name>:replaced   set    ids of earlier versions that were running when their row was corrected
    batch:<name>:cancels    set    ids of running jobs that are to stop
    batch:<name>:engine_sets hash  '<digest> <name>' of an engine set -> number of done jobs that it drew; a tab and the
                                   model that their rows ask for follow, where they ask for one
    batch:<name>:prompts    hash   source -> PromptOptions as JSON, of its first submission
    batch:<name>:rebuilding string set while the batch is rebuilt from storage
    batch:<name>:newest     list   ids of the jobs that were done last, newest first: at most 2 * NEWEST
    batch:<name>:failures   list   ids of the jobs that failed last, newest first: at most 2 * NEWEST. In both lists an
                                   id may stand twice, and the job may have been queued again or superseded since
    batch:<name>:refusals   hash   job id -> list of Refusal as JSON, until the job ends
    deleting                hash   batch -> '<token> <since>', while its files and then its ledger are deleted;
                                   '<token> <since> gone' once all files of its jobs are
    deleted                 sorted set  batches that were deleted, by that time; for DELETED_SECONDS
    delayed:<queue>         sorted set  '<batch> <job id>' by the time at which its message is to be queued
    unheld:<queue>          set    those of delayed:<queue> that were refused for want of their engine set: a worker
                                   that holds it, has a place and has not refused them queues their messages
                                   before their time
    sifted:<queue>          string how often messages were taken out of the queue's middle, or moved within it
    refuted:<by>            string Refutation as JSON: the latest job that `by` (Refusal.by) refused and another worker
                                   finished; expires after REFUTED_SECONDS
    worker:<name>           string Heartbeat as JSON; expires with the worker's lease
    sizes:<queue>:<digest>  sorted set  '<height>x<width>x<tokens>x<batch>' by how much workers used an engine set
                                   at this size lately (sizes.py): at most SIZES; expires after SIZES_SECONDS
    exits:<queue>           hash   why workers ended by themselves (records.Exit) -> number of them so far

kombu's keys, which hold the messages, are in kombu_view.py. Workers and producers of several versions share one Redis:
names and formats stay as they are.
"""

from __future__ import annotations

from typing import Literal, get_args

BATCHES = "render:batches"
DELETING = "render:deleting"
DELETED = "render:deleted"
DELETED_SECONDS = 7 * 86400  # workers and messages that outlive their batch by so much are not expected
WORKER_PREFIX = "render:worker:"
REFUTED_PREFIX = "render:refuted:"
REFUTED_SECONDS = 3600
NEWEST = 500
SIZES = 64
SIZES_SECONDS = 30 * 86400

BatchPart = Literal[
    "states",
    "counts",
    "jobs",
    "results",
    "rows",
    "row_prefixes",
    "superseded",
    "replaced",
    "cancels",
    "engine_sets",
    "prompts",
    "rebuilding",
    "newest",
    "failures",
    "refusals",
]


def batch_key(batch: str, part: BatchPart) -> str:
    """The key of one part of a batch."""
    return f"render:batch:{batch}:{part}"


def all_batch_keys(batch: str) -> list[str]:
    """Every key that a batch has of its own."""
    return batch_keys(batch, *get_args(BatchPart))


def batch_keys(batch: str, *parts: BatchPart) -> list[str]:
    """The keys of several parts of a batch, in the order given."""
    return [batch_key(batch, part) for part in parts]


def delayed_key(queue: str) -> str:
    """The key of the jobs of a queue that wait for their time."""
    return f"render:delayed:{queue}"


def unheld_key(queue: str) -> str:
    """The key of the delayed jobs of a queue that wait for a worker with their engine set."""
    return f"render:unheld:{queue}"


def exits_key(queue: str) -> str:
    """The key of the numbers of workers that ended by themselves."""
    return f"render:exits:{queue}"


def sizes_key(queue: str, engine_set: str) -> str:
    """The key of the sizes that workers of a queue used an engine set at."""
    return f"render:sizes:{queue}:{engine_set}"


def sifted_key(queue: str) -> str:
    """The key of the counter that tells whether messages changed their places in a queue."""
    return f"render:sifted:{queue}"
