"""`python -m tasks.prefect_server.new_database DATABASE`: keep the form of an empty database that Prefect's server has made.

At its first start the server changes an empty SQLite database some hundred times, once for each change that Prefect ever made
to its form, which takes eight seconds of a processor. Here it is given the form that comes of all that. The server goes on from
there if its Prefect is newer.
"""

import os
import re
import sqlite3
import sys
from pathlib import Path
from uuid import uuid4

FORMS = Path(__file__).parent
"""Where the form lies, in a file named by the last of Prefect's changes that is in it: `form_REVISION.sql`."""
_REVISION = "SELECT version_num FROM alembic_version"


def lay_new_database(forms: Path = FORMS) -> None:
    """Lay the form of a new database where this process's Prefect server would make one, if nothing is there yet.

    Prefect does so itself where it knows no such form: it is older, or it was told to use another database than SQLite.
    """
    path = _place()
    if path is None or path.exists():
        return
    for form in forms.glob("form_*.sql"):
        if _knows(form.stem.removeprefix("form_")):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            partial = path.with_name(f".{path.name}.{uuid4().hex[:8]}.part")
            try:
                _fill(partial, form.read_text())
                os.link(partial, path)
            except (OSError, sqlite3.Error):
                pass  # another process was faster, or whatever else it is: Prefect's server will say it better
            finally:
                partial.unlink(missing_ok=True)


def form_of(database: Path) -> tuple[str, str]:
    """Return the last change of Prefect's in a database, and its form as SQL. What is in its tables is left out."""
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        ((revision,),) = connection.execute(_REVISION)
        made = connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY rowid")
        lines = [re.sub(r"[ \t]+\n", "\n", f"{statement};") for (statement,) in made]
    finally:
        connection.close()
    return revision, "\n".join([*lines, f"INSERT INTO alembic_version VALUES ('{revision}');", ""])


def _place() -> Path | None:
    """Where the server's database lies or will lie; None if it is no file of SQLite's, or is no business of the server's."""
    from prefect.settings import get_current_settings
    from sqlalchemy import make_url

    settings = get_current_settings().server.database
    if settings.connection_url is None or not settings.migrate_on_start:
        return None
    address = make_url(settings.connection_url.get_secret_value())
    is_file = address.get_backend_name() == "sqlite" and address.database and "memory" not in str(address)
    return Path(address.database) if is_file and address.database else None


def _knows(revision: str) -> bool:
    """Whether the Prefect that is installed can go on from there."""
    import prefect.server.database

    changes = Path(prefect.server.database.__file__).parent / "_migrations" / "versions" / "sqlite"
    return any(changes.glob(f"*_{revision}_*.py"))


def _fill(path: Path, form: str) -> None:
    connection = sqlite3.connect(path)
    try:
        connection.executescript(f"PRAGMA synchronous = OFF; BEGIN; {form} COMMIT;")
    finally:
        connection.close()
    with path.open("rb") as file:
        os.fsync(file.fileno())


def main(database: str) -> None:
    """Write the form of this database beside this module, in the place of the one that was there."""
    revision, form = form_of(Path(database))
    for old in FORMS.glob("form_*.sql"):
        old.unlink()
    (FORMS / f"form_{revision}.sql").write_text(form)


if __name__ == "__main__":
    main(*sys.argv[1:])
