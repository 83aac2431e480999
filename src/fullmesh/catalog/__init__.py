"""Facts with provenance."""
