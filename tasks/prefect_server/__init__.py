"""Prefect's server as leanpipe starts it: for one command or for `leanpipe up`, on a SQLite database that waits for nobody."""
