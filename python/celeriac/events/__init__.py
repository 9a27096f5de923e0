"""Events: what workers and clients tell monitors, and what monitors make of it."""

from __future__ import annotations

from celeriac.events.dispatcher import EventDispatcher
from celeriac.events.event import Event, event_exchange, get_exchange, group_from
from celeriac.events.receiver import EventReceiver

__all__ = ["Event", "EventDispatcher", "EventReceiver", "event_exchange", "get_exchange", "group_from"]
