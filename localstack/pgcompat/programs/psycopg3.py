import os, psycopg
from psycopg import sql

def check(name, f):
    try:
        f(); print("pass psycopg", name)
    except Exception as e:
        print("fail psycopg", name); print("   ", type(e).__name__, str(e)[:300])

conn = psycopg.connect(autocommit=True)
conn.execute("drop table if exists p3; create table p3 (id int primary key, t text, j jsonb, a int[], b bytea)")
def insert():
    with conn.transaction():
        conn.cursor().executemany("insert into p3 values (%s, %s, %s, %s, %s)", [(i, f"t{i}", '{"a": 1}', [1, 2], b"\0\1") for i in range(100)])
def binary():
    assert conn.cursor(binary=True).execute("select id, t, a, b from p3 where id = %s", (7,)).fetchone() == (7, "t7", [1, 2], b"\0\1")
def copy_in():
    with conn.cursor() as c, c.copy("copy p3 (id, t) from stdin") as copy:
        for i in range(1000, 2000): copy.write_row((i, "x" * 100))
    assert conn.execute("select count(*) from p3 where id >= 1000").fetchone() == (1000,)
def copy_out():
    with conn.cursor() as c, c.copy("copy (select id from p3 order by id limit 3) to stdout") as copy:
        assert [r[0] for r in copy.rows()] == ["0", "1", "2"]
def copy_error():
    try:
        with conn.cursor() as c, c.copy("copy p3 (id, t) from stdin") as copy:
            copy.write_row(("nonsense", "x"))
    except psycopg.errors.InvalidTextRepresentation:
        return
    raise AssertionError("no error")
def pipeline():
    with conn.pipeline() as p:
        cs = [conn.execute("select %s::int", (i,)) for i in range(20)]
        p.sync()
        assert [c.fetchone()[0] for c in cs] == list(range(20))
def pipeline_error():
    try:
        with conn.pipeline():
            conn.execute("select 1"); conn.execute("select 1/0"); conn.execute("select 2")
    except psycopg.errors.DivisionByZero:
        return
    raise AssertionError("no error")
def server_cursor():
    with conn.transaction(), conn.cursor("named") as c:
        c.itersize = 10
        c.execute("select id from p3 order by id")
        assert len(c.fetchall()) == 1100
def held_cursor():
    with conn.cursor("held", withhold=True, scrollable=True) as c:
        c.execute("select id, t from p3 where id > %s order by id", (10,))
        assert c.fetchone() == (11, "t11") and c.description[1].name == "t"
        c.scroll(0, "absolute"); assert len(c.fetchmany(3)) == 3
    c = psycopg.ClientCursor(conn); c.execute("declare stolen cursor with hold for select 1"); s = conn.cursor("stolen"); assert s.fetchone() == (1,); s.close(); conn.execute("close stolen")
    assert conn.execute("select count(*) from pg_cursors").fetchone() == (0,)
def binary_cursor():
    with conn.transaction(), conn.cursor("b", binary=True) as c:
        c.execute("select id, a from p3 where id = 5"); assert c.fetchone() == (5, [1, 2])
def prepared():
    for _ in range(10): conn.execute("select t from p3 where id = %s", (3,), prepare=True)
def savepoint():
    with conn.transaction():
        try:
            with conn.transaction(): conn.execute("select 1/0")
        except psycopg.errors.DivisionByZero: pass
        conn.execute("select 1")
def notify():
    conn.execute("listen ch")
    with psycopg.connect(autocommit=True) as o: o.execute("notify ch, 'hi'")
    assert next(conn.notifies(timeout=5)).payload == "hi"
def cancel():
    import threading
    threading.Timer(0.3, conn.cancel_safe).start()
    try: conn.execute("select pg_sleep(20)")
    except psycopg.errors.QueryCanceled: return
    raise AssertionError("no error")
def twophase():
    conn2 = psycopg.connect()
    x = conn2.xid(1, "g", "b"); conn2.tpc_begin(x); conn2.execute("select 1"); conn2.tpc_commit(); conn2.close()
def temporary():
    conn.execute("create temp table tt (a int)"); conn.execute("insert into tt values (1)"); assert conn.execute("select a from tt").fetchone() == (1,)
for f in (insert, binary, copy_in, copy_out, copy_error, pipeline, pipeline_error, server_cursor, held_cursor, binary_cursor, prepared, savepoint, notify, cancel, twophase, temporary): check(f.__name__, f)
