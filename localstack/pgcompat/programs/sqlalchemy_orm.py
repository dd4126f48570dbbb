import os
from sqlalchemy import *
from sqlalchemy.orm import *
from sqlalchemy.dialects.postgresql import JSONB, ARRAY, insert

def check(name, f):
    try:
        f(); print("pass sqlalchemy", name)
    except Exception as e:
        print("fail sqlalchemy", name); print("   ", type(e).__name__, str(e)[:300])

e = create_engine(f"postgresql+psycopg://{os.environ['PGUSER']}:{os.environ['PGPASSWORD']}@{os.environ['PGHOST']}:{os.environ['PGPORT']}/{os.environ['PGDATABASE']}")
class Base(DeclarativeBase): pass
class User(Base):
    __tablename__ = "sa_users"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50), unique=True)
    doc: Mapped[dict] = mapped_column(JSONB, default=dict)
    tags: Mapped[list] = mapped_column(ARRAY(Text), default=list)
    posts: Mapped[list["Post"]] = relationship(back_populates="user", cascade="all, delete-orphan")
class Post(Base):
    __tablename__ = "sa_posts"
    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("sa_users.id"))
    text: Mapped[str]
    user: Mapped[User] = relationship(back_populates="posts")
def create(): Base.metadata.drop_all(e); Base.metadata.create_all(e)
def add():
    with Session(e) as s:
        s.add_all([User(name=f"u{i}", doc={"a": i}, tags=["x"], posts=[Post(text="p")]) for i in range(200)]); s.commit()
def read():
    with Session(e) as s: assert len(s.scalars(select(User).options(selectinload(User.posts)).where(User.doc["a"].as_integer() < 10)).all()) == 10
def upsert():
    with e.begin() as c: c.execute(insert(User.__table__).values(name="u1", doc={}, tags=[]).on_conflict_do_update(index_elements=["name"], set_={"tags": ["y"]}))
def stream():
    with e.connect() as c: assert len(list(c.execution_options(stream_results=True, max_row_buffer=10).execute(select(Post)))) == 200
def cursor():
    with e.connect() as c:
        r = c.connection.cursor("sa_named", scrollable=True, withhold=True); r.execute("select id from sa_posts order by id"); assert len(r.fetchmany(5)) == 5
        c.connection.commit(); r.scroll(-5); assert len(r.fetchall()) == 200; r.close()
def reflect():
    m = MetaData(); m.reflect(e); assert "sa_posts" in m.tables
    i = inspect(e); assert i.get_foreign_keys("sa_posts") and i.get_indexes("sa_users") is not None and i.get_unique_constraints("sa_users")
def nested():
    with Session(e) as s:
        s.begin()
        try:
            with s.begin_nested(): s.add(User(name="u1")); s.flush()
        except Exception: pass
        s.add(User(name="new")); s.commit()
def lock():
    with Session(e) as s: s.scalars(select(User).with_for_update(skip_locked=True).limit(1)).one(); s.rollback()
def alembic():
    from alembic.migration import MigrationContext
    from alembic.autogenerate import compare_metadata
    from alembic.operations import Operations
    with e.begin() as c:
        m = MigrationContext.configure(c, opts={"include_name": lambda name, kind, parents: kind != "table" or name.startswith("sa_")}); op = Operations(m)
        assert compare_metadata(m, Base.metadata) == []
        op.add_column("sa_users", Column("age", Integer, server_default="0")); op.create_index("ix_age", "sa_users", ["age"]); op.alter_column("sa_users", "age", nullable=False); op.drop_column("sa_users", "age")
def migrations():
    import tempfile
    from alembic import command
    from alembic.config import Config
    with tempfile.TemporaryDirectory() as d:
        c = Config(d + "/alembic.ini", stdout=open(os.devnull, "w")); c.set_main_option("script_location", d + "/m"); c.set_main_option("sqlalchemy.url", e.url.render_as_string(False))
        command.init(c, d + "/m")
        env = open(d + "/m/env.py").read().replace("target_metadata = None", "from sqlalchemy import *\nm = MetaData(schema='alembic'); Table('a', m, Column('id', Integer, primary_key=True), Column('t', Text, index=True)); target_metadata = m")
        env = env.replace("target_metadata=target_metadata", "target_metadata=target_metadata, include_schemas=True, include_name=lambda n, t, p: t != 'schema' or n == 'alembic'")
        open(d + "/m/env.py", "w").write(env)
        with e.begin() as x: x.execute(text("drop schema if exists alembic cascade; create schema alembic"))
        command.revision(c, "one", autogenerate=True); command.upgrade(c, "head")
        assert inspect(e).get_indexes("a", schema="alembic")
        command.check(c); command.downgrade(c, "base")
        assert not inspect(e).get_table_names(schema="alembic")
def drop(): Base.metadata.drop_all(e)
for f in (create, add, read, upsert, stream, cursor, reflect, nested, lock, alembic, migrations, drop): check(f.__name__, f)
