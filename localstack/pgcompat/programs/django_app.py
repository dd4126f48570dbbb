import os, django
from django.conf import settings
settings.configure(INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions", "django.contrib.admin", "django.contrib.messages"], DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    DATABASES={"default": {"ENGINE": "django.db.backends.postgresql", "NAME": os.environ["PGDATABASE"], "USER": os.environ["PGUSER"], "PASSWORD": os.environ["PGPASSWORD"], "HOST": os.environ["PGHOST"], "PORT": os.environ["PGPORT"]}})
django.setup()
from django.core.management import call_command
from django.contrib.auth.models import User, Group
from django.db import connection, transaction
from django.db.models import Count

def check(name, f):
    try:
        f(); print("pass django", name)
    except Exception as e:
        print("fail django", name); print("   ", type(e).__name__, str(e)[:300])

def migrate(): call_command("migrate", verbosity=0)
def users():
    for i in range(20): User.objects.create_user(f"u{i}", password="x")
    User.objects.bulk_create([User(username=f"b{i}") for i in range(100)])
    g = Group.objects.create(name="g"); g.user_set.add(*User.objects.all()[:5])
def query(): assert Group.objects.annotate(n=Count("user")).get(name="g").n == 5
def atomic():
    try:
        with transaction.atomic():
            User.objects.create(username="u1")
    except django.db.IntegrityError: pass
    with transaction.atomic(): User.objects.select_for_update().first()
def iterate(): assert len(list(User.objects.iterator(chunk_size=10))) == 120
def inspect(): call_command("inspectdb", stdout=open(os.devnull, "w"))
def introspect():
    with connection.cursor() as c: connection.introspection.get_constraints(c, "auth_user")
def flush(): call_command("flush", verbosity=0, interactive=False)
def unmigrate(): call_command("migrate", "auth", "zero", verbosity=0)
for f in (migrate, users, query, atomic, iterate, inspect, introspect, flush, unmigrate): check(f.__name__, f)
