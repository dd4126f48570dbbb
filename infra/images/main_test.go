package main

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
)

// verify starts this program again, which in a test is the test.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == again {
		if err := run(context.Background(), os.Args[1:], io.Discard); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// programs builds a small static program for both platforms.
func programs(t *testing.T) []string {
	t.Helper()
	dir := t.TempDir()
	var all []string
	for _, arch := range []string{"amd64", "arm64"} {
		file := filepath.Join(dir, "hello-"+arch)
		cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-buildvcs=false", "-o", file, "./testdata/hello")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		all = append(all, arch+"="+file)
	}
	return all
}

func images(args ...string) (string, error) {
	var out strings.Builder
	err := run(context.Background(), args, &out)
	return out.String(), err
}

func TestImages(t *testing.T) {
	binaries := programs(t)
	first := filepath.Join(t.TempDir(), "one")
	said, err := images(append([]string{"build", "--name", "hello", "--version", "v1", "--out", first}, binaries...)...)
	if err != nil || !strings.HasPrefix(said, "sha256:") {
		t.Fatalf("%q %v", said, err)
	}
	t.Run("the same again", func(t *testing.T) {
		// Of other files, with other times, elsewhere, in the place of something else.
		var copies []string
		dir := t.TempDir()
		for _, b := range binaries {
			arch, file, _ := strings.Cut(b, "=")
			bytes, err := os.ReadFile(file)
			to := filepath.Join(dir, "copy-"+arch)
			if err := errors.Join(err, os.WriteFile(to, bytes, 0o600), os.Chtimes(to, time.Time{}, time.Unix(1e9, 0))); err != nil {
				t.Fatal(err)
			}
			copies = append(copies, arch+"="+to)
		}
		second := filepath.Join(dir, "layout")
		if err := os.MkdirAll(filepath.Join(second, "old"), 0o700); err != nil {
			t.Fatal(err)
		}
		again, err := images(append([]string{"build", "--name", "hello", "--version", "v1", "--out", second}, copies...)...)
		if a, b := strings.Fields(said)[0], strings.Fields(again)[0]; err != nil || a != b {
			t.Errorf("%s, then %s, %v", a, b, err)
		}
		if _, err := os.Stat(filepath.Join(second, "old")); err == nil {
			t.Error("what was there is there still")
		}
		if other, err := images(append([]string{"build", "--name", "hello", "--version", "v2", "--out", second}, copies...)...); err != nil || strings.Fields(other)[0] == strings.Fields(said)[0] {
			t.Errorf("this test finds everything the same: %s, %v", other, err)
		}
	})
	t.Run("what is in it", func(t *testing.T) { checkContents(t, first) })
	t.Run("it runs", func(t *testing.T) {
		got, err := images("verify", "--name", "hello", first)
		want := "uid 65532, gid 65532, no roots false, no shell true, no write true, environment []"
		if os.Geteuid() != 0 || runtime.GOOS != "linux" { // then it must say that it proved nothing
			want = ""
			if err == nil || !strings.Contains(err.Error(), "root") && !strings.Contains(err.Error(), "Linux") {
				t.Errorf("%q, %v", got, err)
			}
		} else if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
		if got, err := images("verify", "--name", "other", first); err == nil {
			t.Errorf("another name: %q", got)
		}
	})
}

func checkContents(t *testing.T, dir string) {
	top, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	blobs, err := filepath.Glob(filepath.Join(dir, "blobs", "sha256", "*"))
	if err != nil || len(blobs) != 7 { // an index; of each platform a manifest, a configuration and a layer
		t.Errorf("%d blobs, %v", len(blobs), err)
	}
	for _, b := range blobs {
		body, err := os.ReadFile(b)
		if sum := sha256.Sum256(body); err != nil || hex.EncodeToString(sum[:]) != filepath.Base(b) {
			t.Errorf("%s is another, %v", b, err)
		}
	}
	m, err := top.IndexManifest()
	if err != nil || len(m.Manifests) != 1 {
		t.Fatalf("%+v, %v", m, err)
	}
	index, err := top.ImageIndex(m.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	platforms, err := index.IndexManifest()
	if err != nil || len(platforms.Manifests) != 2 {
		t.Fatalf("%+v, %v", platforms, err)
	}
	for _, d := range platforms.Manifests {
		img, err := index.Image(d.Digest)
		if err != nil {
			t.Fatal(err)
		}
		c, err := img.ConfigFile()
		if err != nil || c.Architecture != d.Platform.Architecture || c.OS != "linux" || c.Config.User != "65532:65532" || fmt.Sprint(c.Config.Entrypoint) != "[/hello]" || len(c.Config.Env) != 0 || !c.Created.Equal(time.Unix(0, 0)) {
			t.Errorf("%+v, %v", c, err)
		}
		if got, want := listing(t, img), "etc/ 755 0, etc/ssl/ 755 0, etc/ssl/certs/ 755 0, etc/ssl/certs/ca-certificates.crt 444 0, hello 555 0, tmp/ 1777 0, var/ 755 0, var/lib/ 755 0, var/lib/sallyport-agent/ 700 65532"; got != want {
			t.Errorf("files are\n%s, want\n%s", got, want)
		}
	}
}

func listing(t *testing.T, img v1.Image) string {
	layers, err := img.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("%d layers, %v", len(layers), err)
	}
	r, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close() //nolint:errcheck // only read
	var files []string
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return strings.Join(files, ", ")
		}
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, fmt.Sprintf("%s %o %d", h.Name, h.Mode, h.Uid))
	}
}

func TestWhatIsNoImage(t *testing.T) {
	out := filepath.Join(t.TempDir(), "layout")
	amd64 := programs(t)[0]
	_, file, _ := strings.Cut(amd64, "=")
	shell, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	for name, args := range map[string][]string{
		"nothing":              nil,
		"no such thing":        {"push", "--name", "hello", out},
		"no name":              {"build", "--out", out, amd64},
		"a path for a name":    {"build", "--name", "../hello", "--out", out, amd64},
		"no directory":         {"build", "--name", "hello", amd64},
		"no binary":            {"build", "--name", "hello", "--out", out},
		"no platform":          {"build", "--name", "hello", "--out", out, file},
		"an unknown platform":  {"build", "--name", "hello", "--out", out, "riscv64=" + file},
		"another's binary":     {"build", "--name", "hello", "--out", out, "arm64=" + file},
		"a binary with a need": {"build", "--name", "hello", "--out", out, runtime.GOARCH + "=" + shell},
		"no binary at all":     {"build", "--name", "hello", "--out", out, "amd64=main.go"},
		"a missing binary":     {"build", "--name", "hello", "--out", out, "amd64=nosuch"},
		"no layout":            {"verify", "--name", "hello", t.TempDir()},
	} {
		if said, err := images(args...); err == nil {
			t.Errorf("%s: %q", name, said)
		}
		if _, err := os.Stat(out); err == nil {
			t.Errorf("%s: left something", name)
		}
	}
}
