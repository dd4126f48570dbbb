package main

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// user is who the programs run as: nobody's number on a usual system, and no name.
const user = 65532

// Where things are in an image.
const (
	roots = "etc/ssl/certs/ca-certificates.crt" // where Go looks for it on Linux
	state = "var/lib/sallyport-agent"           // the agent's; a volume is mounted there
)

// machines are the platforms, all of them Linux.
var machines = map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}

// Image is one program for several platforms. Binaries are PLATFORM=FILE.
type Image struct {
	Name, Version string
	Binaries      []string
}

// build writes the layout and returns the digest of its index. It depends on nothing but the binaries, the name and the version.
func build(in Image, into string) (string, error) {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, b := range in.Binaries {
		arch, file, ok := strings.Cut(b, "=")
		if _, known := machines[arch]; !ok || !known {
			return "", fmt.Errorf("%q is not amd64=FILE or arm64=FILE", b)
		}
		img, err := in.platform(arch, file)
		if err != nil {
			return "", fmt.Errorf("%s: %w", arch, err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}})
	}
	if err := os.RemoveAll(into); err != nil {
		return "", err
	}
	// The layout's own index names one image, for all its platforms: what is pushed has that digest.
	path, err := layout.Write(into, empty.Index)
	if err != nil {
		return "", fmt.Errorf("write %s: %w", into, err)
	}
	if err := path.AppendIndex(index, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": in.Version})); err != nil {
		return "", fmt.Errorf("write %s: %w", into, err)
	}
	digest, err := index.Digest()
	return digest.String(), err
}

func (in Image) platform(arch, file string) (v1.Image, error) {
	binary, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	if err := static(binary, machines[arch]); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	files, err := tree(in.Name, binary)
	if err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(files)), nil }, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, err
	}
	img, err := mutate.Append(mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON),
		mutate.Addendum{Layer: layer, MediaType: types.OCILayer, History: v1.History{CreatedBy: "infra/images"}})
	if err != nil {
		return nil, err
	}
	return mutate.ConfigFile(img, in.config(img, arch))
}

func (in Image) config(img v1.Image, arch string) *v1.ConfigFile {
	c, err := img.ConfigFile()
	if err != nil {
		return &v1.ConfigFile{} // of an image in memory, which cannot fail
	}
	c = c.DeepCopy()
	c.OS, c.Architecture, c.Created = "linux", arch, v1.Time{Time: time.Unix(0, 0).UTC()}
	c.Config = v1.Config{User: fmt.Sprintf("%d:%d", user, user), Entrypoint: []string{"/" + in.Name}, WorkingDir: "/",
		Labels: map[string]string{"org.opencontainers.image.title": in.Name, "org.opencontainers.image.version": in.Version, "org.opencontainers.image.licenses": "Apache-2.0"}}
	return c
}

// static refuses a binary that would look for a loader or libraries: there are none in the image.
func static(binary []byte, want elf.Machine) error {
	f, err := elf.NewFile(bytes.NewReader(binary))
	if err != nil {
		return fmt.Errorf("not a Linux program: %w", err)
	}
	if f.Machine != want {
		return fmt.Errorf("is for %v, not %v", f.Machine, want)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return errors.New("is linked dynamically; an image has no libraries")
		}
	}
	return nil
}

// tree is the whole file system, as a tar.
func tree(name string, binary []byte) ([]byte, error) {
	certificates, err := webRoots()
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range []struct {
		name  string
		mode  int64
		owner int
		body  []byte
	}{
		{"etc/", 0o755, 0, nil}, {"etc/ssl/", 0o755, 0, nil}, {"etc/ssl/certs/", 0o755, 0, nil}, {roots, 0o444, 0, certificates}, {name, 0o555, 0, binary},
		{"tmp/", 0o1777, 0, nil}, {"var/", 0o755, 0, nil}, {"var/lib/", 0o755, 0, nil}, {state + "/", 0o700, user, nil},
	} {
		kind := byte(tar.TypeReg)
		if strings.HasSuffix(f.name, "/") {
			kind = tar.TypeDir
		}
		h := &tar.Header{Typeflag: kind, Name: f.name, Mode: f.mode, Uid: f.owner, Gid: f.owner, Size: int64(len(f.body)), ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}
		if err := w.WriteHeader(h); err != nil {
			return nil, fmt.Errorf("write %s: %w", f.name, err)
		}
		if _, err := w.Write(f.body); err != nil {
			return nil, fmt.Errorf("write %s: %w", f.name, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// webRoots are Mozilla's roots as golang.org/x/crypto keeps them. Those that are only half believed are left out: a file cannot say so.
func webRoots() ([]byte, error) {
	var b bytes.Buffer
	for r := range bundle.Roots() {
		if r.Constraint != nil {
			continue
		}
		if err := pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: r.Certificate}); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), nil
}
