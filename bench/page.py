"""`docs/performance.md` and its plots, and the summary of a run, made of its results.

The page's prose is written by people; what stands between `<!-- bench: NAME -->` and
`<!-- bench end -->` is replaced by the section of that name. So no figure is typed by hand.
"""

import re
from typing import TYPE_CHECKING, Final

from bench import plots, results, sections, tables
from bench.contenders import CONTENDERS
from bench.reach import GOALS, OURS
from bench.results import Results
from bench.servers import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE: Final = ROOT / "docs" / "performance.md"

_SECTION: Final = re.compile(
    r"(<!-- bench: (?P<name>[a-z ]+) -->\n).*?(<!-- bench end -->)", re.DOTALL
)
_TITLES: Final = {one.name: one.title for one in CONTENDERS}


def write(found: Results) -> None:
    """Write the page's figures and its plots."""
    for old in plots.FOLDER.glob("*.svg"):
        old.unlink()
    made: dict[str, Callable[[Results], str]] = {
        "reach": _reach,
        "run": _run,
        "get": sections.get,
        "latency": sections.latency,
        "other loads": sections.other_loads,
        "writes": sections.writes,
        "lookups": sections.lookups,
        "growth": sections.growth,
        "microseconds": _microseconds,
        "memory": _memory,
        "disk": _disk,
        "layouts": _layouts,
        "keys": _keys,
        "postgres": sections.over_postgres,
        "imports": sections.imports,
        "machine": _machine,
    }

    def section(match: re.Match[str]) -> str:
        return f"{match[1]}\n{made.pop(match['name'])(found)}\n{match[3]}"

    text = _SECTION.sub(section, PAGE.read_text())
    assert not made, f"{PAGE} has no place for {', '.join(made)}"
    PAGE.write_text(text)


def summary(found: Results) -> str:
    """Return the table of what is to be reached."""
    text = _reach(found)
    if found.lookups is not None:
        text += f"\n{sections.lookups(found)}"
    return text


# --- sections -------------------------------------------------------------------------------------


def _reach(found: Results) -> str:
    return sections.reached(found, GOALS)


def _run(found: Results) -> str:
    text = (
        f"Published run: {found.began}; {found.main_profiles:,} profiles, {found.repeat} rounds of "
        f"{found.seconds:g} s for each load on each server. A figure is the median of the rounds,"
        " with the lowest and the highest behind it.\n"
    )
    stolen = [run.stolen for run in found.runs]
    if stolen and max(stolen) > 0:
        text += (
            f"\nThe hypervisor gave up to {max(stolen):.1%} of a run's time to other machines"
            f" ({sum(stolen) / len(stolen):.1%} on average).\n"
        )
    if found.left_out:
        left_out = "; ".join(f"{what} ({reason})" for what, reason in found.left_out.items())
        text += f"\nLeft out: {left_out}.\n"
    return text


def _microseconds(found: Results) -> str:
    if found.cpu is None:
        return tables.NOTHING
    runs = found.of("get", OURS)
    whole_us = results.over(runs, results.cpu_us).median if runs else None

    def cost(share: float) -> str:
        return f"{share * whole_us:.2f}" if whole_us else ""

    plots.save(
        "microseconds",
        plots.whole(
            "Where the CPU time of one GET goes",
            f"{whole_us:.1f} µs, by the code that ran" if whole_us else "by the code that ran",
            [
                plots.Part(
                    part.name,
                    part.share,
                    f"{part.share:.1%}" + (f", {cost(part.share)} µs" if whole_us else ""),
                )
                for part in found.cpu.parts
            ],
        ),
    )
    parts = tables.table(
        ("", "share", "µs of one GET"),
        ((part.name, f"{part.share:.1%}", cost(part.share)) for part in found.cpu.parts),
        right=(1, 2),
    )
    functions = tables.table(
        ("function", "share"),
        ((f"`{one.name}`", f"{one.share:.1%}") for one in found.cpu.functions),
        right=(1,),
    )
    return (
        f"{tables.image('microseconds', 'Where the microseconds go')}\n{parts}\n"
        f"{found.cpu.samples:,} samples. The functions with most of them:\n\n{functions}"
    )


def _memory(found: Results) -> str:
    if not found.memory:
        return tables.NOTHING
    rows = (
        (_TITLES[server], f"{size / 1e6:,.1f} MB")
        for server, size in sorted(found.memory.items(), key=lambda item: item[1])
    )
    return tables.table(("", "private memory"), rows, right=(1,))


def _disk(found: Results) -> str:
    disk = found.disk
    if disk is None:
        return tables.NOTHING
    rows = [(f"`{name}`", f"{size / disk.profiles:,.1f}") for name, size in disk.parts.items()]
    rows.append(("**the whole file**", f"**{disk.file_bytes / disk.profiles:,.1f}**"))
    table = tables.table(("", "bytes a profile"), rows, right=(1,))
    return f"{disk.profiles:,} profiles with {disk.identifiers} identifiers each:\n\n{table}"


def _layouts(found: Results) -> str:
    if not found.layouts:
        return tables.NOTHING
    rows = (
        (
            one.name,
            tables.with_range(one.read_us, digits=2),
            tables.with_range(one.answer_us, digits=2),
            f"{one.bytes_a_profile:,.0f}",
        )
        for one in found.layouts
    )
    head = ("", "µs a look-up", "µs with the body made", "bytes a profile")
    table = tables.table(head, rows, right=(1, 2, 3))
    return f"{found.layouts[0].profiles:,} profiles, without a server:\n\n{table}"


def _keys(found: Results) -> str:
    timing = found.key_timing
    if timing is None:
        return tables.NOTHING
    apart = abs(timing.unknown_us - timing.near_miss_us)
    verdict = "within" if apart <= timing.noise_us else "**outside of**"
    return (
        f"Median of {timing.requests:,} refusals each: {timing.unknown_us:.2f} µs for an unknown"
        f" key, {timing.near_miss_us:.2f} µs for a stored key with one character changed. They are"
        f" {apart:.2f} µs apart, {verdict} the noise of {timing.noise_us:.2f} µs: that is how far"
        " the medians of the same times are apart, 95 times of 100, when they are dealt out to the"
        " two at random.\n"
    )


def _machine(found: Results) -> str:
    machine = tables.table(("", ""), found.machine.items())
    versions = ", ".join(f"{name} {version}" for name, version in found.versions.items())
    return f"{machine}\nVersions: {versions}.\n"
