"""Copies the one report that waits in a database of the service until there are as many as the second argument says."""

import sqlite3
import sys

database = sqlite3.connect(sys.argv[1])
count = int(sys.argv[2])


def copy(table, key, **changes):
    columns = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
    values = ", ".join(changes.get(column, column) for column in columns)
    numbers = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count - 1})"
    database.execute(f"INSERT INTO {table} {numbers} SELECT {values} FROM {table}, n WHERE {table}.{key} = ?", [first[key]])


database.row_factory = sqlite3.Row
first = dict(database.execute("SELECT * FROM executions JOIN outbox ON id = execution_id").fetchone())
first["seq"] = database.execute("SELECT seq FROM executions WHERE id = ?", [first["id"]]).fetchone()[0]
copy("executions", "seq", seq="seq + i", id="printf('copy-%06d', i)")
copy("results", "seq", seq="seq + i")
copy("outbox", "execution_id", seq="seq + i", execution_id="printf('copy-%06d', i)")
database.commit()
