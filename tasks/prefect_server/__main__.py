"""`python -m tasks.prefect_server ...`: Prefect's own command line, whose server lets one request write to SQLite at a time."""

from tasks.prefect_server.sqlite import one_writer_at_a_time


def main() -> None:
    """Run `prefect` with the arguments of this command."""
    one_writer_at_a_time()
    from prefect.cli import app

    app()


if __name__ == "__main__":
    main()
