package main

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
)

const (
	runLimit = 20 * time.Second
	// maxFile bounds what is unpacked of one file: the agent has 60 MB.
	maxFile = 1 << 30
)

// verify unpacks the layout's image for this machine and runs it: as nobody, in a root that is its own and cannot be written to.
func verify(ctx context.Context, name, from string) (said string, err error) {
	if os.Geteuid() != 0 {
		return "", errors.New("verify: takes root, to have a root directory of its own")
	}
	img, err := here(from)
	if err != nil {
		return "", err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return "", err
	}
	if config.Config.User != fmt.Sprintf("%d:%d", user, user) || len(config.Config.Entrypoint) != 1 || config.Config.Entrypoint[0] != "/"+name {
		return "", fmt.Errorf("verify: the image runs %v as %q", config.Config.Entrypoint, config.Config.User)
	}
	root, err := os.MkdirTemp("", "sallyport-image-")
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(root)) }()
	if err := os.Chmod(root, 0o755); err != nil { //nolint:gosec // a root directory is everybody's to look at
		return "", err
	}
	if err := unpack(img, root); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, runLimit)
	defer cancel()
	return contained(ctx, root, config.Config.Entrypoint[0], "--version")
}

// here is the image of a layout for this machine's processor.
func here(from string) (v1.Image, error) {
	path, err := layout.FromPath(from)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", from, err)
	}
	top, err := path.ImageIndex()
	if err != nil {
		return nil, err
	}
	m, err := top.IndexManifest()
	if err != nil {
		return nil, err
	}
	if len(m.Manifests) != 1 {
		return nil, fmt.Errorf("%s has %d images", from, len(m.Manifests))
	}
	index, err := top.ImageIndex(m.Manifests[0].Digest)
	if err != nil {
		return nil, err
	}
	if m, err = index.IndexManifest(); err != nil {
		return nil, err
	}
	for _, d := range m.Manifests {
		if d.Platform != nil && d.Platform.Architecture == runtime.GOARCH {
			return index.Image(d.Digest)
		}
	}
	return nil, fmt.Errorf("%s has no image for %s", from, runtime.GOARCH)
}

// unpack writes the image's files below root, with their owners. It refuses what is neither a file nor a directory.
func unpack(img v1.Image, root string) error {
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	dir, err := os.OpenRoot(root)
	if err != nil {
		return err
	}
	defer dir.Close() //nolint:errcheck // a directory
	for _, l := range layers {
		if err := unpackLayer(l, dir); err != nil {
			return fmt.Errorf("unpack: %w", err)
		}
	}
	return nil
}

func unpackLayer(l v1.Layer, dir *os.Root) error {
	r, err := l.Uncompressed()
	if err != nil {
		return err
	}
	defer r.Close() //nolint:errcheck // only read
	for files := tar.NewReader(r); ; {
		h, err := files.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := filepath.Clean(h.Name)
		switch h.Typeflag {
		case tar.TypeDir:
			err = dir.Mkdir(name, 0o700)
		case tar.TypeReg:
			err = write(dir, name, files)
		default:
			err = fmt.Errorf("%s is neither a file nor a directory", h.Name)
		}
		if err == nil {
			err = errors.Join(dir.Chown(name, h.Uid, h.Gid), dir.Chmod(name, fs.FileMode(h.Mode&0o777))) //nolint:gosec // masked
		}
		if err != nil {
			return err
		}
	}
}

func write(dir *os.Root, name string, from io.Reader) error {
	f, err := dir.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, io.LimitReader(from, maxFile))
	return errors.Join(err, f.Close())
}
