"""What commands print: JSON for programs, text for people."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import click
import msgspec


def emit(data: object, as_json: bool, text: str) -> None:  # noqa: FBT001 - an option's value
    """Print `data` as one line of JSON, or `text`."""
    click.echo(msgspec.json.encode(data).decode() if as_json else text)


def utc(milliseconds: int) -> str:
    """Return a time of ours as people read it."""
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(milliseconds / 1_000))


@contextmanager
def progress_bar(label: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar from the first time that the yielded function is told: so much done, of so much.

    What fails before has its one line to itself.
    """
    with ExitStack() as stack:
        bar = None
        began = time.monotonic()

        def tell(done: int, total: int) -> None:
            nonlocal bar
            if bar is None:
                bar = stack.enter_context(
                    click.progressbar(
                        length=total, label=label, file=sys.stderr, item_show_func=_rate
                    )
                )
            bar.length = total
            bar.update(done - bar.pos, int(done / max(time.monotonic() - began, 0.001)))

        yield tell


def _rate(per_second: int | None) -> str | None:
    return None if per_second is None else f"{per_second:,}/s"
