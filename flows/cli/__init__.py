"""The leanpipe command: one file for each subcommand that prints, reads settings or starts servers."""
