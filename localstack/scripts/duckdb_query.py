"""Runs Athena's queries over a data directory's copies with DuckDB: {"data", "queries": [{"sql", "parameters"}]} in, their rows out."""
import json
import sys

import duckdb

asked = json.load(sys.stdin)
c = duckdb.connect()
c.execute("set timezone = 'UTC'")
# What Athena has and DuckDB calls something else. "$path" is its name of the file that a line is from.
c.execute("create macro json_extract_scalar(j, path) as json_extract_string(j, path)")
c.execute(f"create view entries as select * from read_parquet('{asked['data']}/copies/entries/*/*.parquet', hive_partitioning = true)")
c.execute(
    f"""create view log as select filename as "$path", line from read_csv('{asked['data']}/evidence/entries/*.jsonl', filename = true, header = false,
    columns = {{'line': 'varchar'}}, delim = '\\x01', quote = '', escape = '', max_line_size = 67108864)"""
)
answers = [{"columns": c.sql("select * from entries").columns, "types": [str(t) for t in c.sql("select * from entries").types], "rows": []}]
for q in asked["queries"]:
    r = c.execute(q["sql"], q.get("parameters") or [])
    answers.append({"columns": [d[0] for d in r.description], "rows": r.fetchall()})
json.dump(answers, sys.stdout, default=str)
