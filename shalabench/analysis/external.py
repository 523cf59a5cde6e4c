"""Notes on rows whose samples were made elsewhere (shalabench.exchange)."""

from __future__ import annotations

from shalabench.records.frame import Records

_SHORT = 12  # letters of a digest


def external_notes(records: Records) -> list[str]:
    """A sentence for each row of external samples: what they are, and what the preset means."""
    notes = []
    for run in records.rows:
        if own := run.data.get("external"):
            notes.append(
                f"{run.model}: {own['samples']} made elsewhere (SHA-256 {own['digest'][:_SHORT]}); "
                "the preset is that of the evaluation, not of the training."
            )
    return list(dict.fromkeys(notes))
