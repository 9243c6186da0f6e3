"""Access records, logs and metrics, for operators."""
