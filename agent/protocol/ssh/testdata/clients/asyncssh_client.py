"""What programs do with asyncssh: arguments are the port and a directory on the host."""
import asyncio, sys
import asyncssh

port, home = int(sys.argv[1]), sys.argv[2]


async def main():
    async with asyncssh.connect("127.0.0.1", port, username="somebody", known_hosts=None, client_keys=None, agent_path=None, config=None) as c:
        r = await c.run("echo out; echo err >&2; exit 7")
        assert (r.exit_status, r.stdout, r.stderr) == (7, "out\n", "err\n"), r
        r = await c.run("cat", input="x" * 300000)
        assert r.stdout == "x" * 300000
        r = await c.run("echo denyme")
        assert r.exit_status == 126 and r.stdout == "" and "no-denyme" in r.stderr, r
        many = await asyncio.gather(*(c.run(f"echo {i}") for i in range(10)))
        assert [m.stdout for m in many] == [f"{i}\n" for i in range(10)]
        r = await c.run("kill -TERM $$")
        assert r.exit_signal and r.exit_signal[0] == "TERM", r
        async with c.start_sftp_client() as s:
            path = home + "/asyncssh"
            await s.mkdir(path)
            async with s.open(path + "/a", "w") as f:
                await f.write("hello" * 50000)
            assert (await s.stat(path + "/a")).size == 250000
            await s.posix_rename(path + "/a", path + "/b")
            assert sorted(n for n in await s.listdir(path) if n not in (".", "..")) == ["b"]
            await s.get(path + "/b", path + "-back")
            assert open(path + "-back").read() == "hello" * 50000
            await s.put(__file__, path + "/self")
            try:
                await s.open(path + "/denyme", "w")
                raise SystemExit("a denied file was opened")
            except asyncssh.SFTPPermissionDenied:
                pass
            await s.rmtree(path)


asyncio.run(main())
print("good")
