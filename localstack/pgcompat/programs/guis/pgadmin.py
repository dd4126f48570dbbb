# pgAdmin 4 itself, without its windows: what its tree, property sheets, dashboards and query tool ask when somebody clicks through a database.
import builtins, json, os, re, sys, tempfile, time, warnings, zlib
warnings.filterwarnings("ignore")
home = [p for p in sys.path if p.endswith("site-packages")][0] + "/pgadmin4"
sys.path.insert(0, home)
os.chdir(home)
builtins.SERVER_MODE = False
import config
data = tempfile.mkdtemp(prefix="pgadmin-")
config.SERVER_MODE, config.DATA_DIR, config.SQLITE_PATH = False, data, data + "/pgadmin4.db"
config.SESSION_DB_PATH, config.STORAGE_DIR, config.LOG_FILE = data + "/sessions", data + "/storage", data + "/log"
config.AZURE_CREDENTIAL_CACHE_DIR, config.KERBEROS_CCACHE_DIR = data + "/azure", data + "/kerberos"
config.MASTER_PASSWORD_REQUIRED = config.USE_OS_SECRET_STORAGE = config.UPGRADE_CHECK_ENABLED = config.WTF_CSRF_ENABLED = False
from pgadmin import create_app
from pgadmin.model import SCHEMA_VERSION
config.SETTINGS_SCHEMA_VERSION = SCHEMA_VERSION
app = create_app()
app.config["WTF_CSRF_ENABLED"], app.PGADMIN_INT_KEY = False, ""
app.PGADMIN_RUNTIME = True
app.run_before_app_start()
client = app.test_client()
rules = {r.rule for r in app.url_map.iter_rules() if "GET" in r.methods}
shapes = {re.sub(r"<[^>]*>", "<>", r) for r in rules}

def ask(name, path, method="get", **kw):
    try:
        r = getattr(client, method)(path, **kw)
        body = r.get_json(silent=True)
        text = r.get_data(as_text=True)
    except Exception as e:
        print("fail pgadmin", name); print("   ", type(e).__name__, str(e)[:300]); return None
    if r.status_code == 406:  # it has no such sheet
        return None
    good = r.status_code == 200 and not (isinstance(body, dict) and body.get("success") == 0)
    more = " %08x" % zlib.crc32(text.encode()) if good and "/sql/" in path else ""
    print("pass" if good else "fail", "pgadmin", name + more)
    if not good:
        print("   ", path, r.status_code, re.sub(r"\s+", " ", text)[:400])
    return body if good else None

made = ask("server", "/browser/server/obj/1/", "post", json={"name": "room", "host": os.environ["PGHOST"], "port": int(os.environ["PGPORT"]), "db": "shop",
    "username": os.environ["PGUSER"], "connect_now": False, "connection_params": [{"name": "sslmode", "keyword": "sslmode", "value": "disable"}]})
sid = made["node"]["_id"]
ask("connect", f"/browser/server/connect/1/{sid}", "post", json={"password": os.environ["PGPASSWORD"], "save_password": False})

def has(shape):
    return shape in shapes

def items(body):
    rows = body.get("data") if isinstance(body, dict) else body
    return rows if isinstance(rows, list) else []

seen = {}
def visit(kind, label, path):
    """One object: its sheets, then what is below it."""
    depth = len(path)
    slots = "/".join("<>" for _ in path)
    where = "/".join(str(p) for p in path)
    seen[kind] = seen.get(kind, 0) + 1
    if seen[kind] > 3:
        return
    if kind == "database":
        if label != "shop":
            return
        ask(f"database connect {label}", f"/browser/database/connect/{where}", "post", json={})
    for what in ("obj", "sql", "dependency", "dependent", "stats"):
        if has(f"/browser/{kind}/{what}/{slots}"):
            ask(f"{kind} {what} {label}", f"/browser/{kind}/{what}/{where}")
    for s in sorted(shapes):
        m = re.fullmatch(rf"/browser/{kind}/(get_\w+|vopts|count_rows)/{slots}", s)
        if m:
            ask(f"{kind} {m.group(1)} {label}", f"/browser/{kind}/{m.group(1)}/{where}")
    if not has(f"/browser/{kind}/children/{slots}"):
        return
    for c in items(ask(f"{kind} children {label}", f"/browser/{kind}/children/{where}") or {}):
        t = c["_type"]
        if t.startswith("coll-"):
            collection(t[5:], label, path)
        else:
            visit(t, c["label"], path + [c["_id"]])

def collection(kind, parent, path):
    slots = "/".join("<>" for _ in path)
    where = "/".join(str(p) for p in path)
    for what in ("obj", "stats"):
        if has(f"/browser/{kind}/{what}/{slots}/"):
            ask(f"{kind} {what} of {parent}", f"/browser/{kind}/{what}/{where}/")
    for s in sorted(shapes):
        m = re.fullmatch(rf"/browser/{kind}/(get_\w+|vopts)/{slots}/", s)
        if m:
            ask(f"{kind} {m.group(1)} of {parent}", f"/browser/{kind}/{m.group(1)}/{where}/")
    if has(f"/browser/{kind}/nodes/{slots}/"):
        for n in items(ask(f"{kind} nodes of {parent}", f"/browser/{kind}/nodes/{where}/") or {}):
            visit(n["_type"], n["label"], path + [n["_id"]])

visit("server", "room", [1, sid])
did = next(int(d["_id"]) for d in items(client.get(f"/browser/database/nodes/1/{sid}/").get_json()) if d["label"] == "shop")
charts = "?chart_names=session_stats,tps_stats,ti_stats,to_stats,bio_stats"
for s in sorted(shapes):
    m = re.fullmatch(r"/dashboard/(\w+)/<>(/<>)?", s)
    if m and m.group(1) not in ("log_formats", "logs", "static", "system_statistics", "cancel_query", "terminate_session"):
        ask("dashboard " + s, s.replace("<>", str(sid), 1).replace("<>", str(did), 1) + (charts if "stats" in s else ""))

numbers = iter(range(1000001, 1000100))
def query(sql):
    t = next(numbers)
    ask("query tool open", f"/sqleditor/initialize/sqleditor/{t}/1/{sid}/{did}", "post", json={"user": os.environ["PGUSER"], "role": None, "password": os.environ["PGPASSWORD"], "dbname": "shop"})
    ask("query tool run " + sql[:30], f"/sqleditor/query_tool/start/{t}", "post", json={"sql": sql, "explain_plan": None})
    deadline = time.time() + 30
    while time.time() < deadline:
        body = client.get(f"/sqleditor/poll/{t}").get_json() or {}
        if (body.get("data") or {}).get("status") != "Busy":
            break
        time.sleep(0.05)
    print("pass" if (body.get("data") or {}).get("status") == "Success" else "fail", "pgadmin query tool result", sql[:30], (body.get("data") or {}).get("rows_affected"))
    ask("query tool close", f"/sqleditor/close/{t}", "delete")

query("select * from app.people order by id")
query("update app.people set name = name where id = 1")
query("explain select * from app.people")
ask("search", f"/search_objects/search/{sid}/{did}?text=people&type=all")
ask("search types", f"/search_objects/types/{sid}/{did}")
client.delete(f"/browser/server/connect/1/{sid}")
sys.stdout.flush()
os._exit(0)
