//go:build compat

package ssh

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sallyport/sallyport/internal/access"
)

// clientsDir is where localstack/scripts/ssh-clients.sh installs.
const clientsDir = "../../../build/ssh-clients"

// TestClients: what programs do with clients of other languages, against a real server; see testdata/clients.
func TestClients(t *testing.T) {
	dir, err := filepath.Abs(clientsDir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "versions")); err != nil {
		t.Fatalf("no clients: run localstack/scripts/ssh-clients.sh first: %v", err)
	}
	t.Setenv("NODE_PATH", filepath.Join(dir, "node_modules"))
	python := filepath.Join(dir, "venv/bin/python")
	srv := server(t)
	for name, argv := range map[string][]string{"paramiko": {python, "paramiko_client.py"}, "asyncssh": {python, "asyncssh_client.py"}, "ssh2": {"node", "ssh2_client.js"}} {
		t.Run(name, func(t *testing.T) {
			h := open(t, srv)
			_, port, err := net.SplitHostPort(h.addr)
			if err != nil {
				t.Fatal(err)
			}
			script, err := filepath.Abs("testdata/clients/" + argv[1])
			if err != nil {
				t.Fatal(err)
			}
			if r := execute(t, nil, argv[0], script, port, t.TempDir()); r.code != 0 || r.out != "good\n" {
				t.Errorf("got %+v", r)
			}
		})
	}
}

// TestAnsible plays a playbook in each way in which ansible carries its modules.
func TestAnsible(t *testing.T) {
	dir, err := filepath.Abs(clientsDir)
	if err != nil {
		t.Fatal(err)
	}
	srv := server(t)
	for name, settings := range map[string]string{
		"sftp": "ansible_ssh_transfer_method=sftp", "scp": "ansible_ssh_transfer_method=scp", "piped": "ansible_ssh_transfer_method=piped", "pipelining": "ansible_ssh_pipelining=true",
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t, srv)
			_, port, err := net.SplitHostPort(h.addr)
			if err != nil {
				t.Fatal(err)
			}
			home := t.TempDir()
			control, err := os.MkdirTemp("/tmp", "sallyport-cm-") // sockets need short paths
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(control)
			inventory := write(t, "inventory", fmt.Sprintf("web ansible_host=127.0.0.1 ansible_port=%s ansible_user=somebody ansible_python_interpreter=%s home=%s %s ansible_ssh_common_args='%s'\n",
				port, filepath.Join(dir, "venv/bin/python"), home, settings, strings.Join(h.options(), " ")))
			t.Setenv("ANSIBLE_HOME", home)
			t.Setenv("ANSIBLE_SSH_CONTROL_PATH_DIR", control)
			t.Setenv("ANSIBLE_REMOTE_TMP", home+"/tmp")
			t.Setenv("ANSIBLE_NOCOLOR", "1")
			t.Setenv("LC_ALL", "C.UTF-8")
			t.Setenv("ANSIBLE_SSH_ARGS", "-o ControlMaster=auto -o ControlPersist=3s") // of its own sixty seconds each playbook here would wait for the end
			cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "venv/bin/ansible-playbook"), "-i", inventory, "testdata/clients/playbook.yml")
			cmd.WaitDelay = 10 * time.Second
			if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "failed=0") {
				t.Errorf("got %v\n%s", err, out)
			}
			all := h.asked("EXEC")
			understood := 0
			for _, c := range all {
				if c.Complete {
					understood++
				}
			}
			t.Logf("%d commands, %d of them understood in full", len(all), understood)
			if len(all) < 5 {
				t.Error("hardly anything was decided: ansible went another way")
			}
			for _, o := range h.outcomes() {
				if o.Result.Status == access.StatusUnknown {
					t.Errorf("an outcome is not known: %+v", o)
				}
			}
		})
	}
}
