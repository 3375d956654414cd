"""Whose webhooks are understood: one module for each sender, one line here."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from knownas.webhooks import adapty, revenuecat
from knownas.webhooks.received import Event, Greeting

SENDERS: Final[Mapping[str, Callable[[Mapping[str, Any]], Event | Greeting]]] = {
    "adapty": adapty.read,
    "revenuecat": revenuecat.read,
}
"""By the name in the path: what reads the JSON object of a request. It is pure."""
