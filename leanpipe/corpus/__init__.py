"""Text as it lies there to documents worth learning from: the stages `clean` and `inspect`, their rules and settings."""
