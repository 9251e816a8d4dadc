"""Every name in Redis and how long it lives. Nobody else spells a key.

A job's keys live until its deadline plus the result TTL, and from its end for the result TTL. Keys without a TTL are
only those of `NO_TTL`; a test fixture fails on any other.
"""

from __future__ import annotations

import re
from typing import Literal

JOB = "ml:job:"  # hash: the record
OUTCOME = "celery-task-meta-"  # string: the outcome in Celery's result format; also the channel it is published on
SAID = "ml:said:"  # string: ml:said:<job id>:<attempt>, what a run has said so far of its answer
PAYLOAD = "ml:in:"  # string: ml:in:<job id>:<n>, large or binary inputs
OBJECT = "ml:obj:"  # string: a chunk of a file, where Redis is the payload store
STORED = "ml:stored"  # sorted set: references of what lies in the payload store, by their expiry, ms
DOOMED = "ml:doomed"  # sorted set: references whose objects are to be deleted, by the next try, ms
FILE = "ml:file:"  # hash: an uploaded file
FILES = "ml:files:"  # sorted set: ml:files:<owner>, its files and their sizes, by expiry, ms
IDEMPOTENCY = "ml:idem:"  # string: job id and fingerprint
COUNTERS = "ml:count:"  # hash a version: queued, running, bytes (now); succeeded, failed, canceled (ever)
JOBS = "ml:jobs:"  # sorted set: ml:jobs:<owner>, its jobs (without those of batches) by when they came, ms
DEADLINES = "ml:deadlines"  # sorted set: job id by deadline, ms
UNACKED = "ml.unacked"  # hash: delivery tag -> list name, newline, raw message
HOLDERS = "ml.unacked_holder"  # hash: delivery tag -> the worker process that holds it
LEASES = "ml.unacked_index"  # sorted set: delivery tag by last renewal, ms
DELAYED = "ml.delayed"  # hash: job id -> list name, newline, raw message, of jobs that are not to start yet
DUE = "ml.delayed_index"  # sorted set: those jobs by their start, ms
BEAT = "ml:beat"  # string: when a worker last looked for leases that ran out, ms
LANE = "ml.lane:"  # list: ml.lane:<list>:<owner>, the messages of one key in the place of <list>
TURNS = "ml.turns:"  # sorted set: ml.turns:<list>, whose lane is served next (see `take` in the prelude)
OWNED = "ml:owned:"  # hash a version: by owner its jobs that have not ended, and <owner>:bytes of them
ACTIVE = "ml:active"  # hash: by owner its jobs that have not ended, of all models
USAGE = "ml:usage:"  # hash: ml:usage:<owner>:<day since 1970>, what workers did for it, for USAGE_TTL_S
UPLOAD = "ml:upload:"  # hash: a batch whose lines are being sent; renamed to BATCH when it is accepted
BATCH = "ml:batch:"  # hash: the record of a batch: state, version, times, counts, and what its lines' jobs are made of
LINES = "ml:lines:"  # list: of a batch the lines that have not begun, the next at its right end
REFUSED = "ml:lines_refused:"  # hash: of a batch by line the error (JSON) of an input that does not fit
OPEN = "ml:lines_open:"  # set: of a batch the lines that are jobs now, and have not ended
BATCHES = "ml:batches"  # sorted set: "<batch> <ref>" of all that have not ended, by when to look at it next, ms
BATCHES_ON = "ml:batches_on:"  # set: ml:batches_on:<model>@<version>, its batches that have not ended
BATCHES_OF = "ml:batches_of:"  # sorted set: ml:batches_of:<owner>, its batches by when they were accepted, ms
DEAD = "ml:dead"  # stream: dead letters; the old are swept
WORKER = "ml:worker:"  # string: one worker process, alive while the key is
WORKERS = "ml:workers"  # sorted set: worker processes by last sign of life, ms; lives as long as any of them
CARD = "ml:card:"  # string: ml:card:<model>@<version>:<worker>, what it serves; lives like the worker
LOADING = "ml:loading:"  # string: ml:loading:<model>@<version>, the worker that loads a lazy one, for half a minute
KEYS = "ml:keys"  # hash: SHA-256 of an API key's secret -> the key as JSON (shared/api_keys.py)
RATE = "ml:rate"  # strings: the windows of rate limits
REGISTRY = "ml:registry"  # hash: which models there are to be (shared/registry.py), as JSON, and the etag of that
WEBHOOKS = "ml:webhooks"  # sorted set: hosts by when their first delivery is due, ms; also a channel: one is due now
HOST = "ml:webhooks:"  # sorted set: ml:webhooks:<host>, deliveries to it by when they are due, ms
HOOK = "ml:hook:"  # hash: ml:hook:<webhook-id>, a delivery: of what, where to, attempts, body once it was tried
HOOK_OFF = "ml:hook_off:"  # string: ml:hook_off:<owner>:<SHA-1 of a URL>, a receiver that has answered 410
HOOK_COUNTS = "ml:hook_counts"  # hash: attempts to deliver ever, by what came of them
HOOK_SECRETS = "ml:hook_secrets"  # hash: by owner what its webhooks are signed with, as JSON
PAUSED = "ml:paused"  # hash: the models that workers start no job of -> since when, ms
DRAIN = "ml:drain:"  # string: ml:drain:<worker process>, which is to finish what it has and leave
SCHEMA = "ml:schema:"  # string: a version's input schema, for 30 days
REPLY = "ml:reply:"  # channel: one API process
PROBE = "ml:probe"  # string: written by readiness checks, for seconds

INTAKE = "ml"  # queue of plain Celery producers
CONTROL_EXCHANGE = "ml.pidbox"
REPLIES = f".reply.{CONTROL_EXCHANGE}.pidbox"  # list: <asker>.reply..., answers to a control message
EVENT_EXCHANGE = "ml.ev"

SAID_TTL_MS = 600 * 1000  # from the last piece
SCHEMA_TTL_S = 30 * 24 * 3600
DRAIN_TTL_S = 600
DEAD_TTL_S = 7 * 24 * 3600
USAGE_TTL_S = 400 * 24 * 3600
USAGE_TTL_MS = USAGE_TTL_S * 1000
HOOK_TTL_MS = 24 * 3600 * 1000  # of a delivery, from when it is due, or has failed for good
HOOK_OFF_TTL_MS = 30 * 24 * 3600 * 1000

ANONYMOUS = "anonymous"  # the owner of jobs that came without a key; plain Celery's are CELERY's
CELERY = "celery"

# Priorities in Celery's Redis numbers: 0 is the highest (the other way round than AMQP).
HIGH, NORMAL, LOW = 0, 3, 6
PRIORITIES = (HIGH, NORMAL, LOW)
PriorityName = Literal["high", "normal", "low"]
PRIORITY_NAMES: dict[PriorityName, int] = {"high": HIGH, "normal": NORMAL, "low": LOW}
PRIORITY_WORDS = {number: name for name, number in PRIORITY_NAMES.items()}
_SEPARATOR = "\x06\x16"  # kombu's, between a queue's name and its priority

# After a list's name, with a message version: where an older worker puts what it does not understand. Nothing in it is
# waited for after the longest deadline.
PARKED = f"{_SEPARATOR}v"
MAX_DEADLINE_S = 30 * 24 * 3600
PARKED_TTL_MS = (MAX_DEADLINE_S + 24 * 3600) * 1000

# Upper bounds (ms) of the buckets in which a version's counters hold its latencies (field `le:<bound>`, `le:inf`).
LATENCY_BOUNDS_MS = (5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 60_000)
LATENCY_BOUNDS = " ".join(map(str, LATENCY_BOUNDS_MS))

NO_TTL = re.compile(
    r"^(ml\.unacked(_holder|_index)?|ml\.delayed(_index)?|ml:deadlines|ml:stored|ml:doomed|ml:registry|ml:dead|ml:count:.*"
    r"|ml:(keys|owned:.*|active|paused|batches|batches_on:.*|webhooks(:.*)?|hook_counts|hook_secrets)|ml\.(lane|turns):.*"
    r"|ml(\x06\x16\d)?|ml\.[^.]+\..*"  # queue lists
    r"|_kombu\.binding(_permanent)?\..*|_kombu\.binding_deadlines)$"
)


MOST_LINES = 100_000  # of one batch
_BATCH = re.compile(r"batch_[0-9a-f]{32}")
_LINE = re.compile(rf"({_BATCH.pattern})-(0|[1-9][0-9]{{0,4}})")


def is_batch(name: str) -> bool:
    """Whether this has the form of a batch's id."""
    return _BATCH.fullmatch(name) is not None


def line_id(batch_id: str, line: int) -> str:
    """The id of the job that a batch's line becomes; lines count from 0."""
    return f"{batch_id}-{line}"


def parse_line(job_id: str) -> tuple[str, int] | None:
    """The batch and the line of such an id; None: it is not a line's."""
    found = _LINE.fullmatch(job_id)
    return (found[1], int(found[2])) if found else None


def queue_name(model: str, version: str) -> str:
    """`ml.<model>.<version>`. Dots in a model's name are written %2E, so that two models never share a queue."""
    return f"ml.{model.replace('.', '%2E')}.{version}"


def queue_list(queue: str, priority: int) -> str:
    """The Redis list of one queue and priority, as kombu names it."""
    return queue if priority == 0 else f"{queue}{_SEPARATOR}{priority}"


def queue_of(list_name: str) -> str:
    """The queue that a list (of any priority, parked or not) belongs to."""
    return list_name.partition(_SEPARATOR)[0]


def lane(list_name: str, owner: str) -> str:
    """The list of one owner's messages in the place of `list_name`; the latter itself for jobs without a key."""
    return list_name if owner in (ANONYMOUS, CELERY) else f"{LANE}{list_name}:{owner}"


def urgent_lists(queue: str, priority: int) -> list[str]:
    """The lists of a queue that are served before that of `priority`."""
    return [queue_list(queue, step) for step in PRIORITIES if step < priority]


def patient_lists(queue: str, priority: int) -> list[str]:
    """The lists of a queue that are served after that of `priority`."""
    return [queue_list(queue, step) for step in PRIORITIES if step > priority]


def is_intake(queue: str) -> bool:
    """Whether plain Celery producers' messages come in here: queues of ours are `ml.<model>.<version>`."""
    return not queue.startswith(f"{INTAKE}.")


def drained_lists(queues: list[str], version: int) -> list[str]:
    """All lists that a worker of message version `version` takes from, the most urgent first; what older workers have
    parked goes before what came later. Of an intake all ten: stock producers have `priority_steps` of their own, and
    nothing of ours is parked there."""
    parked = [f"{PARKED}{known}" for known in range(2, version + 1)]
    return [
        queue_list(queue, number) + suffix
        for number in range(10)
        for queue in queues
        if number in PRIORITIES or is_intake(queue)
        for suffix in (*(() if is_intake(queue) else parked), "")
    ]


def nearest_priority(number: object) -> int:
    """A number as one of ours; none given means normal, and so does what is no number."""
    if not isinstance(number, int):
        return NORMAL
    if number in PRIORITIES:
        return number
    return max(p for p in PRIORITIES if p <= max(0, number))


def payload_key(job_id: str, number: int) -> str:
    """Where payload `number` of a job lies."""
    return f"{PAYLOAD}{job_id}:{number}"


def said_key(job_id: str, attempt: int) -> str:
    """What one run of a job has said."""
    return f"{SAID}{job_id}:{attempt}"


def card_key(ref: str, worker: str) -> str:
    """The card of one version on one worker."""
    return f"{CARD}{ref}:{worker}"
