"""Benchmarks; ``make bench`` runs them, and ``docs/performance.md`` shows what came out."""
