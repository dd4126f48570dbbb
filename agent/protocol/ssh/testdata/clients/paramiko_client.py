"""What programs do with paramiko: arguments are the port and a directory on the host."""
import os, sys, threading
import paramiko

port, home = int(sys.argv[1]), sys.argv[2]
t = paramiko.Transport(("127.0.0.1", port))
t.start_client(timeout=20)
t.auth_none("somebody")


def run(text, stdin=b""):
    ch = t.open_session(timeout=20)
    ch.exec_command(text)
    ch.sendall(stdin)
    ch.shutdown_write()
    out = ch.makefile("rb").read()
    err = ch.makefile_stderr("rb").read()
    return ch.recv_exit_status(), out, err


assert run("echo out; echo err >&2; exit 7") == (7, b"out\n", b"err\n")
assert run("cat", b"x" * 300000) == (0, b"x" * 300000, b"")
code, out, err = run("echo denyme")
assert code == 126 and out == b"" and b"no-denyme" in err, (code, out, err)

results = []
threads = [threading.Thread(target=lambda i=i: results.append(run(f"echo {i}")[1])) for i in range(10)]
[th.start() for th in threads]
[th.join() for th in threads]
assert sorted(results) == sorted(b"%d\n" % i for i in range(10)), results

s = paramiko.SFTPClient.from_transport(t)
path = os.path.join(home, "paramiko")
s.mkdir(path)
with s.open(path + "/a", "w") as f:
    f.write("hello" * 50000)
assert s.stat(path + "/a").st_size == 250000
s.rename(path + "/a", path + "/b")
assert s.listdir(path) == ["b"]
with s.open(path + "/b", "rb") as f:
    f.prefetch()
    assert f.read() == b"hello" * 50000
s.put(__file__, path + "/self")
s.get(path + "/self", path + "-back")
assert open(path + "-back").read() == open(__file__).read()
s.chmod(path + "/b", 0o600)
s.symlink(path + "/b", path + "/link")
assert s.readlink(path + "/link") == path + "/b"
try:
    s.open(path + "/denyme", "w")
    raise SystemExit("a denied file was opened")
except PermissionError:
    pass
for name in ("b", "self", "link"):
    s.remove(path + "/" + name)
s.rmdir(path)
t.close()
print("good")
