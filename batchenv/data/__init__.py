"""Market data shipped with the package; ``PROVENANCE.md`` tells where they come from, and the terms."""
