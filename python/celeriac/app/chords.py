"""Chords as whoever sends them sees them: whether the result backend counts their parts, and how many there are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celeriac.app.stores import uses_replies
from celeriac.result.record import expires_ms

if TYPE_CHECKING:
    from celeriac.app.base import Celery
    from celeriac.canvas.composition import Composition

__all__ = ["chord_expires_ms", "counts_chords", "grow_chord", "guard_chords", "start_chord"]

_NO_BACKEND = (
    "Starting chords requires a result backend to be configured: the results of the header are kept there until all are "
    "in. A group that is chained with a task is a chord, too. Set result_backend to a store such as redis:// or sqlite://."
)
_REPLIES = (
    'The "rpc" result backend does not support chords: a queue cannot count what comes in it. A group that is chained '
    "with a task is a chord, too. Set result_backend to a store such as redis:// or sqlite://."
)


def counts_chords(app: Celery) -> bool:
    """Whether the result backend counts the parts of chords itself; to be asked before anything of a chord is sent.

    Raises:
        NotImplementedError: It cannot join chords in any way, or there is none.
    """
    if not app.results_enabled:
        raise NotImplementedError(_NO_BACKEND)
    if uses_replies(app.conf.values_now()):
        raise NotImplementedError(_REPLIES)
    return True


def start_chord(app: Celery, group_id: str, size: int) -> None:
    """Says how many parts a chord has, before the first of them is sent. Saying it again changes nothing.

    Args:
        group_id: The id of the header's group.
        size: How many tasks will end with this chord's body in their message; at least 1.

    Raises:
        NotImplementedError: The result backend cannot count the parts of a chord, or there is none.
        OperationalError: It cannot be reached.
    """
    counts_chords(app)
    app.client.start_chord(group_id, size, chord_expires_ms(app))


def grow_chord(app: Celery, group_id: str, by: int = 1) -> None:
    """Adds parts to a chord that is not complete; to be called before they are sent (`Task.add_to_chord`).

    Raises:
        NotImplementedError: The result backend cannot count the parts of a chord, or there is none.
        OperationalError: It cannot be reached.
    """
    counts_chords(app)
    app.client.grow_chord(group_id, by)


def guard_chords(app: Celery, composition: Composition) -> None:
    """Has the chords of a composition looked after, once they are started (`result_chord_lost_after`).

    Raises:
        OperationalError: The result backend cannot be reached.
    """
    if app.conf.values_now()["result_chord_lost_after"]:
        ids = [group_id for group_id, _ in composition.chords]
        app.client.guard_chords(ids, [message.publication for message in composition.messages])


def chord_expires_ms(app: Celery) -> int | None:
    """How long what is counted is kept: `result_chord_expires`, else `result_expires`; None: for ever."""
    conf = app.conf.values_now()
    own = conf["result_chord_expires"]
    return expires_ms(conf["result_expires"] if own is None else own)
