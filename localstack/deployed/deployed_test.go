//go:build deploy

package deployed_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/sallyport/sallyport/localstack/deployed"
)

func begin(t *testing.T, emulator string) *deployed.System {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	targets := filepath.Join(dir, "targets.yaml")
	yaml := "targets:\n  app:\n    protocol: postgres\n    address: 127.0.0.1:1\n    database: shop\n    user: app\n    password: {env: HOME}\n    tls: {mode: disable}\n"
	if err := os.WriteFile(targets, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := deployed.Start(t.Context(), deployed.Config{Emulator: emulator, Root: root, Bin: filepath.Join(root, "bin"), Dir: filepath.Join(dir, "deployed"),
		AgentConfig: targets, Users: deployed.People(), Say: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestMiniStack(t *testing.T) {
	s := begin(t, deployed.MiniStack)
	calls, refused := s.Calls()
	for _, c := range calls {
		t.Log(c)
	}
	for _, r := range refused {
		t.Error("refused: ", r)
	}
}
