"""The engine, as Python sees it. Contract between `bridge/` and `python/celeriac/`.

No function here knows what a task is; none of them blocks with the interpreter held.
Errors raised: `celeriac.exceptions.OperationalError` (broker or backend unreachable, timed out, full,
read-only, damaged), `ImproperlyConfigured` (URL or option), `EncodeError`, `DecodeError`,
`ContentDisallowed`, built-in `TimeoutError` (a wait ran out).
"""

from collections.abc import Callable, Sequence
from typing import Any, final

__version__: str

# -- values ---------------------------------------------------------------------------------------

def json_dumps(obj: Any, default: Callable[[Any], Any] | None = None) -> bytes:
    """Encodes as kombu's JSON does (extended types included, `", "` and `": "` separators, ASCII).

    `default` is asked for what is not known, and returns something that is. Raises EncodeError."""

def json_loads(
    data: bytes | bytearray | memoryview | str, decoders: dict[str, Callable[[Any], Any]] | None = None
) -> Any:
    """Decodes kombu's JSON. `decoders`: more `__type__` names. Raises DecodeError (also for depth > 512)."""

def topic_matches(pattern: str, key: str) -> bool:
    """Whether a routing key fits a pattern, as AMQP says: `*` is one word, `#` any number of them."""

def saferepr(obj: Any, maxlen: int = 1024, maxlevels: int = 3) -> str:
    """Celery's argsrepr text (protocol.md 1.5)."""

def compress(data: bytes, content_type: str) -> bytes:
    """gzip/zlib, bzip2, zstd, by name or content type. Raises EncodeError for any other."""

def decompress(data: bytes, content_type: str, limit: int) -> bytes:
    """gzip/zlib, bzip2, zstd. Raises DecodeError when damaged or over `limit` bytes (bounded memory)."""

def uuids(random: bytes) -> list[str]:
    """A version 4 UUID of each 16 bytes, which are random."""

def json_record(
    task_id: str,
    state: str,
    result: Any,
    traceback: str | None,
    children: list[Any] | None,
    done: str | bool | None,
    group_id: str | None,
    parent_id: str | None,
    expires_ms: int | None,
    default: Callable[[Any], Any],
) -> ResultRecord:
    """A result record in JSON, in Celery's form and order. `done`: ISO text, or True for now in UTC. Raises EncodeError."""

# -- messages and results ---------------------------------------------------------------------------

@final
class Publication:
    """A message and where it goes. Immutable."""

    def __new__(
        cls,
        headers: dict[str, Any],
        properties: dict[str, Any],
        body: bytes,
        *,
        exchange: str = "",
        routing_key: str,
        due_ms: int | None = None,
        declare: dict[str, Any] | None = None,
    ) -> Publication:
        """`properties`: content_type, content_encoding, correlation_id, reply_to, delivery_mode, priority,
        expiration (text or int, ms), and anything else that JSON can hold. delivery_mode is 2 when not given. `headers` must be JSON-encodable. With exchange "" the
        routing key is the queue's name. `due_ms`: the ETA in ms since the epoch. `declare`: the queue that is declared
        before it is sent (`Queue.declaration()`); None is what the client's topology says of exchange and routing key."""
    @property
    def headers(self) -> dict[str, Any]: ...
    @property
    def properties(self) -> dict[str, Any]: ...
    @property
    def body(self) -> bytes: ...
    @property
    def exchange(self) -> str: ...
    @property
    def routing_key(self) -> str: ...
    @property
    def due_ms(self) -> int | None: ...
    @property
    def size(self) -> int:
        """About the bytes that it takes in memory."""
    @property
    def declare(self) -> dict[str, Any] | None: ...

@final
class ResultRecord:
    """What a backend keeps for a task id. Immutable."""

    def __new__(
        cls, task_id: str, state: str, record: bytes, content_type: str, expires_ms: int | None = None
    ) -> ResultRecord: ...
    @property
    def task_id(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def record(self) -> bytes: ...
    @property
    def content_type(self) -> str: ...

@final
class ChordPart:
    """A part of a chord that has ended, as the child that ended it hands it on. Immutable."""

    def __new__(
        cls,
        group_id: str,
        task_id: str,
        group_index: int | None,
        state: str,
        element: bytes,
        *,
        expires_ms: int | None = None,
        group_expires_ms: int | None = None,
        claim_ms: int = 6000,
    ) -> ChordPart:
        """element: what the body gets of it, [1, task id, state, value] encoded. expires_ms: how long the chord is kept.
        group_expires_ms: how long its group's record is. claim_ms: how long whoever completes it has it alone."""
    @property
    def group_id(self) -> str: ...
    @property
    def task_id(self) -> str: ...
    @property
    def group_index(self) -> int | None: ...
    @property
    def state(self) -> str: ...
    @property
    def element(self) -> bytes: ...

@final
class CallTemplate:
    """The message of a task's calls, all but what differs from one to the next. Made of the message of one call;
    it varies the headers id, root_id, parent_id, argsrepr and kwargsrepr, and the properties correlation_id and reply_to."""

    def __new__(
        cls,
        values: tuple[Any, ...],
        headers: dict[str, Any],
        properties: dict[str, Any],
        target: tuple[str, str],
        default: Callable[[Any], Any],
        shown: tuple[int, int, int],
        declare: dict[str, Any] | None = None,
    ) -> CallTemplate:
        """`values`: what else the message depends on. `target`: exchange, routing key. `default`: as for json_dumps.
        `shown`: length of argsrepr, of kwargsrepr, and levels of both. `declare`: as for Publication."""
    def build(
        self,
        values: tuple[Any, ...],
        task_id: str,
        root_id: Any,
        parent_id: Any,
        reply_to: str,
        args: Any,
        kwargs: Any,
        embed: dict[str, Any] | None = None,
    ) -> Publication | None:
        """The message of one call, its body in JSON; None unless `values` are the very objects that the template was made
        with. Raises EncodeError."""
    def build_many(
        self,
        values: tuple[Any, ...],
        task_ids: Sequence[str],
        root_id: Any,
        parent_id: Any,
        reply_to: str,
        calls: Sequence[tuple[Any, Any]],
        max_bytes: int,
    ) -> list[Publication] | None:
        """The messages of these calls (arguments, keyword arguments), one for each id; fewer, but at least one, when
        they would have more than `max_bytes` together. None as for `build`; raises EncodeError."""

# -- client -------------------------------------------------------------------------------------------

@final
class Schedule:
    """What the broker of a client keeps of one schedule of periodic tasks: see `src/broker/schedule.rs`."""

    def __new__(cls, client: Client, name: str) -> Schedule: ...
    def lease(self, holder: str, ttl: float) -> tuple[bool, str | None]:
        """Takes or renews the lease for `ttl` seconds: whether it is ours, and who holds it (None: it is not known)."""
    def release(self, holder: str) -> None: ...
    def fire(
        self,
        holder: str,
        ttl: float,
        entry: str,
        due_ms: int,
        state: str,
        batch: Sequence[Publication],
        timeout: float | None = None,
        retry: tuple[int | None, float, float, float | None] | None = None,
        results: bool = False,
    ) -> str:
        """Notes a due moment and publishes, at most once: `sent`, `already` (noted before) or `not-holder`. Renews the
        lease. `state` is kept with it. The rest as for `Client.publish`."""
    def state(self) -> dict[str, Any]:
        """entries ({name: (due_ms, state)}), changes ({name: text}), holder (None: nobody, or not known)."""
    def change(self, entry: str, change: str | None) -> None:
        """Keeps a text with an entry, for users' changes; None: no more."""

@final
class Completions:
    """Where finished async calls wait for a Python event loop. `fileno()` becomes readable when the queue
    was empty and is not any more; `drain()` empties it. No engine thread ever touches Python."""

    def __new__(cls) -> Completions: ...
    def fileno(self) -> int: ...
    def drain(self) -> list[tuple[int, Any]]:
        """(token, result). A result that is an exception instance is to be raised by the awaiting side."""
    def cancel(self, token: int) -> None:
        """Nobody waits for that call any more: it ends where it is, and reports nothing."""
    def close(self) -> None: ...

@final
class Client:
    """One broker, one backend, any number of threads and loops. Belongs to the process that made it:
    any use in a forked child raises RuntimeError with both pids."""

    def __new__(cls, broker_url: str, result_backend: str | None, options: dict[str, Any]) -> Client:
        """options, all optional:
        connect_timeout (s; also how long a call may take that has no limit of its own), backend_connect_timeout
        transport_options, backend_transport_options (dict of JSON values)
        tls, backend_tls ({ca_certs, certfile, keyfile, verify: full | certificate | nothing} | None: by the URL's scheme)
        topology ({queues: {name: Queue.declaration()}, default_queue, missing_queue_type, missing_exchange_type,
                  delayed_queue_type, max_priority})
        heartbeat (s | None: as the server proposes; 0: none)
        result_content_type, result_expires_ms, result_persistent, reply_queue (str | None: results do not come on a queue)
        Connects lazily; a wrong URL shows at the first call."""
    # Each call that waits has a twin `*_later(..., completions, token)` that returns at once.
    def publish(
        self,
        batch: Sequence[Publication],
        timeout: float | None = None,
        retry: tuple[int | None, float, float, float | None] | None = None,
        results: bool = False,
    ) -> None:
        """All of it or none, within `timeout`. `retry`: attempts after the first (None: until the time is over), seconds
        before the first of these, seconds more before each one after it, and at the most (None: no limit). A store in
        a file or in memory is tried until the time is over in any case. `results`: some results are wanted."""
    def publish_later(
        self,
        batch: Sequence[Publication],
        timeout: float | None,
        retry: tuple[int | None, float, float, float | None] | None,
        results: bool,
        completions: Completions,
        token: int,
    ) -> None: ...
    def publish_admitted(
        self,
        publication: Publication,
        admission: tuple[str, str, int | None, str, str, int],
        timeout: float | None = None,
        retry: tuple[int | None, float, float, float | None] | None = None,
        results: bool = False,
    ) -> tuple[str, int | None] | None:
        """Sends it if its call gets its key: None. Else the id of the call that has it; of debounced calls the id that the
        message must have, and until when (ms since the epoch) it may be due. `admission`: the key, "d" for debounced or "h",
        for how long it may be put off at the most, the id of the message, a token of the call, for how long the key is held
        (all ms). Raises ImproperlyConfigured when neither broker nor result backend keeps keys."""
    def publish_admitted_later(
        self,
        publication: Publication,
        admission: tuple[str, str, int | None, str, str, int],
        timeout: float | None,
        retry: tuple[int | None, float, float, float | None] | None,
        results: bool,
        completions: Completions,
        token: int,
    ) -> None: ...
    def free_keys(self, held: Sequence[tuple[str, str]]) -> list[bool]:
        """Frees keys and locks that are still their tokens'; says which were."""
    def renew_key(self, key: str, token: str, ttl_ms: int) -> bool:
        """Holds a key or a lock for so long from now; False when it is not the token's any more."""
    def lock(self, key: str, token: str, ttl_ms: int) -> int | None:
        """Takes a lock for so long: its number, which grows; None when another has it."""
    def read(self, task_ids: Sequence[str]) -> list[ResultRecord | None]: ...
    def read_later(self, task_ids: Sequence[str], completions: Completions, token: int) -> None: ...
    def wait(self, task_ids: Sequence[str], timeout: float | None = None) -> list[ResultRecord]:
        """Until at least one of them is in SUCCESS, FAILURE or REVOKED; gives those that are. Interruptible
        by signals. Raises the built-in TimeoutError."""
    def wait_later(
        self, task_ids: Sequence[str], timeout: float | None, completions: Completions, token: int
    ) -> None: ...
    def wait_change(
        self, task_id: str, state: str | None, record: bytes | None, timeout: float | None
    ) -> ResultRecord | None:
        """Until the stored record differs from the given one (None: nothing stored); None on time-out."""
    def store(self, records: Sequence[ResultRecord]) -> None: ...
    def start_chord(self, group_id: str, size: int, expires_ms: int | None = None) -> None:
        """How many parts a chord has. Raises OperationalError when the backend is away, or counts no chords."""
    def guard_chords(self, group_ids: Sequence[str], messages: Sequence[Publication]) -> None:
        """Has chords looked after that were started: should their parts be lost, a worker ends them."""
    def grow_chord(self, group_id: str, by: int) -> None:
        """Adds parts to a chord."""
    def forget(self, task_ids: Sequence[str]) -> None: ...
    def arrivals(self, task_ids: Sequence[str], before: Sequence[str] = ...) -> Arrivals:
        """Follows tasks to their ends, with one watch for all of them. Of those in `before` only failures are told."""
    def changes(self, task_ids: Sequence[str]) -> Changes:
        """Follows tasks, state by state."""
    def save_group(self, group_id: str, record: bytes, content_type: str, expires_ms: int | None = None) -> None:
        """Keeps which results are a group's. Raises NotImplementedError when the store cannot."""
    def read_group(self, group_id: str) -> tuple[bytes, str] | None:
        """The stored bytes and their content type; None where nothing is stored."""
    def forget_group(self, group_id: str) -> None: ...
    def put_value(self, key: str, value: bytes, expires_ms: int | None = None) -> None:
        """Keeps bytes under a key of ours in the result backend. Raises NotImplementedError when the store cannot,
        ImproperlyConfigured when there is none; so do the next two."""
    def read_value(self, key: str) -> bytes | None:
        """None where nothing is kept."""
    def delete_values(self, keys: Sequence[str]) -> None: ...
    def purge(self, queue: str) -> int: ...
    def unpark(self, queue: str) -> int:
        """Moves what waits for its time in a place of ours back to its queue, for stock workers; returns how many.
        Raises ImproperlyConfigured when the store has no such place."""
    def queues(self) -> list[dict[str, Any]]:
        """name, ready, claimed, parked, dead."""
    def dead_letters(self, queue: str | None = None, limit: int = 100) -> list[dict[str, Any]]:
        """id, queue, reason, detail, traceback, crashes, died_ms, headers (None: unreadable), properties, body. Oldest
        first."""
    def find_dead(self, filter: dict[str, Any], limit: int) -> list[dict[str, Any]]:
        """The same of those that fit: `ids`, `queue`, `reason`, `task`, `since_ms`, `until_ms`."""
    def dead_stats(self) -> tuple[int, int | None]:
        """How many there are, and when the oldest died, in ms since the epoch."""
    def resolve_dead(self, resolutions: list[tuple[int, Publication | None]]) -> list[int]:
        """Publishes in the place of each, or drops it; tells which were there. Each atomically; RabbitMQ publishes first."""
    def trim_dead(self, max_age: float | None = None, max_count: int | None = None) -> int:
        """Removes what is older (seconds) or beyond, up to about a thousand; tells how many."""
    def paused(self, queues: list[str]) -> list[str]:
        """Which of these are paused."""
    def set_paused(self, queue: str, paused: bool) -> None:
        """Keeps that in the broker; workers that run are told by a command."""
    def examine_broker(self) -> dict[str, Any]:
        """version, clock_offset_ms, workers (of ours, with a lease), consumers (by queue), settings (of the server): None
        or empty where the store does not tell; advice: sentences for an operator."""
    def examine_backend(self) -> dict[str, Any]:
        """The same without advice. Raises ImproperlyConfigured when there is no result backend."""
    def consume(self, queues: Sequence[str], node: str, lease: float = 60.0) -> Consumer:
        """Declares the queues, and starts to take messages by hand. `lease`: seconds that what was taken stays taken
        without a `renew`."""
    def broadcast(self, exchange: str, publication: Publication, ttl: float) -> None:
        """To whoever listens now, with the publication's routing key (which commands have not, and events have)."""
    def inbox(self, exchange: str, key: str) -> Listener:
        """Opens a mailbox: receives what is replied to that exchange and key from now on."""
    def listen(self, exchange: str) -> Listener:
        """Hears what is broadcast on that exchange from now on."""
    def bind_topics(self, exchange: str, queue: str, patterns: Sequence[str]) -> None:
        """Declares a queue and binds it to a topic exchange with just these patterns."""
    def subscribe(self, exchange: str, patterns: Sequence[str], most: int) -> Listener:
        """Hears what is sent to a topic exchange from now on; more than the patterns ask for may come. So many messages
        wait at the most."""
    def stream_end(self) -> str | None:
        """The cursor of the newest entry of the stream of tasks; None where the broker keeps no stream."""
    def stream(self, after: str | None, most: int) -> Listener:
        """Reads that stream: bodies of messages, whose headers have `cursor`, and `gap` where entries were gone. Without a
        cursor: as `subscribe`. Raises ImproperlyConfigured where the broker cannot go on from there."""
    def broker_url(self) -> str:
        """Without the password."""
    def close(self, timeout: float = 5.0) -> None:
        """Waits for calls under way, then disconnects. Calls after it raise RuntimeError."""

@final
class Arrivals:
    """The final records of many tasks, each given once. Made by `Client.arrivals`. Used by one caller at a time."""

    def next(self, timeout: float | None = None) -> list[ResultRecord]:
        """Waits for some that were not given before, in the order of arrival as far as the store knows it; empty when
        all have been given. Interruptible by signals. Raises the built-in TimeoutError."""
    def next_later(self, timeout: float | None, completions: Completions, token: int) -> None: ...

@final
class Changes:
    """The records of some tasks, each time one changes. Made by `Client.changes`. Used by one caller at a time. All of a
    process share one subscription of the result backend; what waits here is one record for each task, the newest."""

    def next(self, timeout: float | None = None) -> list[ResultRecord]:
        """Waits for some that are new (the first time: any that are stored; after an outage they are given again).
        Interruptible by signals. Raises the built-in TimeoutError."""
    def next_later(self, timeout: float | None, completions: Completions, token: int) -> None: ...

@final
class Listener:
    """What is broadcast on one exchange (`Client.listen`), replied to one key of it (`Client.inbox`), sent to a topic or
    written to the stream. Belongs to its process; used by one thread at a time."""

    def receive(self, timeout: float | None = None) -> tuple[dict[str, Any], dict[str, Any], bytes] | None:
        """Headers, properties and body of the next message; None on time-out, and after `close`. Interruptible by
        signals. Connects anew by itself: what is said meanwhile is not heard (but in the embedded store)."""
    def receive_later(self, timeout: float | None, completions: Completions, token: int) -> None: ...
    @property
    def missed(self) -> int:
        """How many messages were dropped, since nobody took them in time."""
    def close(self) -> None:
        """Stops listening, and removes a mailbox from the store."""

@final
class Consumer:
    """Takes messages by hand: for commands that move them or look at them. Made by `Client.consume`."""

    def claim(self, count: int, timeout: float) -> list[Delivery]:
        """Up to `count` messages; none when none came within `timeout` seconds."""
    def settle(self, claims: Sequence[tuple[int, int]], how: str) -> int:
        """how: ack, requeue (to the end of the queue), release (to its old place). Returns how many of these claims were
        lost before, and are where they were."""
    def renew(self) -> bool:
        """Holds what was taken for another lease. False: it was lost, and goes to others."""
    def close(self) -> None:
        """Gives back, in order, what was taken and not settled."""

@final
class Delivery:
    """A message that was taken. Immutable."""

    @property
    def claim(self) -> tuple[int, int]: ...
    @property
    def queue(self) -> str: ...
    @property
    def exchange(self) -> str: ...
    @property
    def routing_key(self) -> str: ...
    @property
    def redelivered(self) -> bool: ...
    @property
    def headers(self) -> dict[str, Any] | None:
        """None when they cannot be read."""
    @property
    def properties(self) -> dict[str, Any]: ...
    @property
    def body(self) -> bytes: ...
    def publication(self, exchange: str, routing_key: str) -> Publication:
        """The same message, byte for byte, to be sent elsewhere."""

def shutdown_runtime(timeout: float = 2.0) -> None:
    """Stops the engine's threads in this process; calls that wait raise RuntimeError. The next call starts
    them again: use it before a fork. At the exit of the interpreter the bridge does this by itself (atexit),
    and then calls raise RuntimeError."""

# -- inside a child -----------------------------------------------------------------------------------

@final
class Execution:
    """One request for a child."""

    @property
    def tag(self) -> int: ...
    @property
    def number(self) -> int:
        """The request's number in its worker; unlike the tag, the same for a run and for its conclusion."""
    @property
    def mode(self) -> str:
        """run, timed_out, lost, revoked, unknown, refused, join, batch."""
    @property
    def detail(self) -> str:
        """lost: how the process ended; revoked: revoked, expired, terminated; refused: why."""
    @property
    def limit(self) -> float | None:
        """timed_out: the hard limit that was passed, in seconds."""
    @property
    def chord(self) -> tuple[str, list[bytes], bytes | None, str | None] | None:
        """join: the chord's id, the elements of its parts, the record of its group, and why it cannot be completed."""
    @property
    def members(self) -> list[Execution]:
        """batch: its requests. Each is answered under its own tag, and the batch when all have been."""
    @property
    def headers(self) -> dict[str, Any]: ...
    @property
    def properties(self) -> dict[str, Any]: ...
    @property
    def body(self) -> bytes: ...
    @property
    def exchange(self) -> str: ...
    @property
    def routing_key(self) -> str: ...
    @property
    def queue(self) -> str | None:
        """The queue it came from, where that queue has defaults, and of dead letters; None otherwise."""
    @property
    def redelivered(self) -> bool: ...
    @property
    def soft_limit(self) -> float | None: ...
    @property
    def hard_limit(self) -> float | None: ...
    def request(self, decoders: dict[str, Callable[[Any], Any]] | None, node: str) -> dict[str, Any] | None:
        """The fields of the task's request: headers, arguments of the JSON body, delivery_info, properties, and what
        the worker adds. None when the message is not protocol 2 with a plain JSON body of [args, kwargs, embed]."""

@final
class Child:
    """The child's end of its socket. A Rust thread reads frames ahead of the task that runs (and ends the
    process when the supervisor is gone); it never attaches to Python."""

    def __new__(cls, fd: int, several: bool = False) -> Child:
        """Takes the descriptor over, and tells the supervisor that the child is set up. several: it runs more than
        one request at a time; the methods that say so are for such a child alone."""
    def receive(self, timeout: float | None = None) -> Execution | None:
        """The next request; None when told to stop, or on time-out (see `stopping`). Python signal handlers run."""
    @property
    def stopping(self) -> bool: ...
    def fileno(self) -> int:
        """Readable when `receive(0)` would give something, or `stopping` (for loops with many slots)."""
    def respond(
        self,
        tag: int,
        kind: str,
        results: Sequence[ResultRecord],
        publications: Sequence[Publication],
        summary: str,
        runtime: float | None,
        traceback: str | None = None,
        parts: Sequence[ChordPart] | None = None,
    ) -> None:
        """kind: success, failure, retry, ignored, rejected, requeued, revoked, malformed, disallowed.
        `traceback`: where the task raised, for its event. `parts`: of chords, that ended with it.
        Raises EncodeError when it is over 1 GiB, OSError when the supervisor is gone."""
    def receive_many(self, limit: int) -> list[Execution]:
        """several: requests that wait, up to so many. Does not wait. What is received has begun."""
    def receive_one(self) -> Execution | None:
        """several: the next request, for one of many threads; None when told to stop."""
    def orders(self) -> list[tuple[str, int]]:
        """several: what came since the last call: ("soft_limit", tag), ("cancel", tag): end it and answer all the
        same, ("slots", how many may run at a time), ("stop", 0)."""
    def orders_fileno(self) -> int:
        """several: readable while there are orders."""
    def respond_later(
        self,
        tag: int,
        kind: str,
        results: Sequence[ResultRecord],
        publications: Sequence[Publication],
        summary: str,
        runtime: float | None,
        traceback: str | None = None,
        parts: Sequence[ChordPart] | None = None,
    ) -> bool:
        """several: as `respond`, but written by the next `flush`. True: no other answer waits for that yet."""
    def flush(self) -> None:
        """several: writes the answers that wait, together."""
    def update(self, tag: int, record: ResultRecord) -> None:
        """Stores a state of the running task's own (in order, before its outcome)."""
    def soft_limit_passed(self, tag: int) -> bool:
        """Whether the supervisor sent SIGUSR1 for this very request (a late signal for an earlier one is not)."""

# -- the supervisor -----------------------------------------------------------------------------------

@final
class Worker:
    """The engine's worker on a thread of its own. The main Python thread starts it, then waits on
    `fileno()` and asks for notices."""

    def __new__(cls, options: dict[str, Any]) -> Worker:
        """options:
        broker_url, result_backend (str | None), and those of Client
        broker_write_url (str | None): where follow-ups go, if not to the broker that is consumed from
        connect_attempts (int | None: until it can): how often it tries to reach the broker when it starts
        node (str), queues (list[str]), concurrency (int), prefetch_multiplier (int | None)
        processes (int | None: as many as concurrency says, each with one slot): each with concurrency slots
        autoscale ((max, min) | None), autoscale_keepalive (seconds)
        tasks: {name: {acks_late, acks_on_failure, acks_on_timeout, reject_on_worker_lost, track_started,
                ignore_result, send_events, rate_limit (str | None: "N", "N/s", "N/m", "N/h"), time_limit, soft_time_limit}}
        accept_content (list of content types), max_message_bytes (int), time_limit, soft_time_limit
        lease_seconds (float), max_crashes (int), chord_lost_after_seconds (float | None: never), drain_seconds (float | None: warm stop waits without limit)
        drain_spares_acknowledged (bool): what would be lost runs on after that; soft_shutdown_seconds (float)
        tell (list of received, revoked, unknown, rejected): what becomes a notice of its own
        notify_socket (str | None), watchdog_seconds (float | None): the service manager
        max_tasks_per_child, max_memory_per_child (KiB), disable_rate_limits (bool)
        fork_server_fd (int | None): stream socket of a fork server that already runs
        fork_server_argv (list[str] | None): starts one by exec, its socket on stdin, when the first is gone
        child_fd (int | None): solo: the worker's side of the socket whose other end the caller serves
        log_level (int)
        control: {enabled, exchange, mingle (bool), state_file (path | None), pool_restarts, commands (own ones),
                conf, conf_with_defaults, tasks, broker (JSON texts), report, pool (texts), max_tasks_per_child}
        http (dict | None): how HTTP tasks and webhooks are taken (queues, concurrency, allow, timeout_seconds,
            connect_timeout_seconds, max_response_bytes, retries, backoff_seconds, backoff_max_seconds,
            retry_after_max_seconds, webhook_schedule, webhook_secrets, done_queue, concludes_in_child); None: not at all
        health_address (str | None): HOST:PORT or a port; answers /live, /ready and /metrics there
        task_events (bool): send events of tasks; heartbeat_seconds (float | None: no events of the worker itself)
        Checked here: raises ImproperlyConfigured, which names the option. Takes the descriptors over. Connects
        to nothing and starts no thread, so that a fork may follow."""
    def start(self) -> None:
        """Starts the engine's thread; returns when it is connected. Raises ImproperlyConfigured, OperationalError."""
    def fileno(self) -> int:
        """Readable while there are notices."""
    def notices(self) -> list[tuple[Any, ...]]:
        """("log", levelno, logger name, message, created (s), task_id | None, task name | None)
        ("ready",), ("stopped", exit code, text)
        ("command", number, method, arguments as JSON text): a command of the app's own; answer by `reply`
        ("task", received | revoked | unknown | rejected, Execution, why, signal number | None): see `tell`
        ("settled", reference): a message whose body is kept elsewhere is settled for good
        "stopped" comes once, and last. Exit code 0 after a warm stop, 1 after a cold one or a failure."""
    def reply(self, number: int, json: str) -> bool:
        """Answers a command of the app's own with JSON text; False when the worker has ended."""
    def stop(self, how: str) -> None:
        """warm: stop claiming, drain, hand back. cold: cancel what runs, hand back. soft: cold after a while, if tasks
        run. Before the start: remembered."""
    def tell(self, events: list[str]) -> None:
        """Has notices made of requests from now on when one of these happens to them: received, revoked, unknown,
        rejected."""
    def stats(self) -> dict[str, Any]:
        """Counters by name, `totals` (received, by task), `pids`. Empty before the start."""
    def join(self, timeout: float | None = None) -> bool:
        """Waits for the engine's thread to end; tells whether it has. True when it was never started."""
