"""docs/reliability.md shows what the last full runs found, and nothing else."""

from soak import report


def test_document_shows_the_kept_results() -> None:
    """The table of the document is the one that the kept results make."""
    _, _, rest = report.DOCUMENT.read_text().partition(report.BEGIN)
    shown, _, _ = rest.partition(report.END)
    results = report.load()
    assert shown == (report.table(results) if results else "There is no full run yet.\n")
