"""Chrome traces, written from a replay and read from a real run."""
