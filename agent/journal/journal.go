// Package journal keeps records on disk until somebody has taken them: appended and synced at one end, taken in order at the other, in files
// of which the oldest go once they were taken whole. It refuses to write behind a failed write: what is in a file behind a torn record
// was never promised to anybody.
package journal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Config says where a journal lives.
type Config struct {
	Dir    string // must exist, for one process at a time
	Prefix string // of the files' names; a number of 20 digits and ".log" follow
	Size   int64  // bytes after which a file is left for the next
	// Head makes the records with which a new file begins, which nobody takes; nil: none.
	Head func() ([]byte, error)
}

// Journal is safe for concurrent use by one that writes and one that takes.
type Journal struct {
	c Config

	mu    sync.Mutex
	files []*file // oldest first; the last is the active one unless it is sealed
	next  uint64  // number of the next file
}

type file struct {
	path   string
	f      *os.File // of the active one
	size   int64    // on disk and synced
	taken  int64    // everything before was taken
	sealed bool
}

const suffix = ".log"

// Open finds the files that an earlier process left. All are sealed: the end of a file may be torn.
func Open(c Config) (*Journal, error) {
	names, err := filepath.Glob(filepath.Join(c.Dir, c.Prefix+"*"+suffix))
	if err != nil {
		return nil, err
	}
	slices.Sort(names) // the numbers have one width
	j := &Journal{c: c, next: 1}
	for _, name := range names {
		n, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimPrefix(filepath.Base(name), c.Prefix), suffix), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%s is not a file of the journal", name)
		}
		st, err := os.Stat(name)
		if err != nil {
			return nil, err
		}
		j.files = append(j.files, &file{path: name, size: st.Size(), sealed: true})
		j.next = n + 1
	}
	return j, nil
}

// Files are the paths of the files, oldest first.
func (j *Journal) Files() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	var paths []string
	for _, f := range j.files {
		paths = append(paths, f.path)
	}
	return paths
}

// Size is how many bytes are on disk, Waiting how many of them nobody has taken.
func (j *Journal) Size() int64 { return j.sum(func(f *file) int64 { return f.size }) }

// Waiting is how many bytes on disk nobody has taken.
func (j *Journal) Waiting() int64 { return j.sum(func(f *file) int64 { return f.size - f.taken }) }

func (j *Journal) sum(of func(*file) int64) (n int64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, f := range j.files {
		n += of(f)
	}
	return n
}

// Write appends whole records and syncs them; on an error none of them counts, and the same bytes may be written again. It returns how many
// bytes the disk holds more: a new file's head too. One call at a time.
func (j *Journal) Write(b []byte) (n int64, err error) {
	f, n, err := j.active()
	if err != nil {
		return 0, err
	}
	_, err = f.f.WriteAt(b, f.size)
	if err == nil {
		err = f.f.Sync()
	}
	if err != nil {
		return n, errors.Join(err, j.leave(f))
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	f.size += int64(len(b))
	if f.size >= j.c.Size {
		f.sealed = true
		err, f.f = f.f.Close(), nil
	}
	return n + int64(len(b)), err
}

// leave gives up on a file whose end is not known any more: after a failed write or sync it is not trusted with another.
func (j *Journal) leave(f *file) error {
	err := errors.Join(f.f.Truncate(f.size), f.f.Close())
	j.mu.Lock()
	defer j.mu.Unlock()
	f.sealed, f.f = true, nil
	if f.size == 0 {
		j.files = j.files[:len(j.files)-1]
		return errors.Join(err, os.Remove(f.path))
	}
	return err
}

// active is the file to append to; n is the length of the head of one that it made.
func (j *Journal) active() (f *file, n int64, err error) {
	j.mu.Lock()
	if n := len(j.files); n > 0 && !j.files[n-1].sealed {
		defer j.mu.Unlock()
		return j.files[n-1], 0, nil
	}
	path := filepath.Join(j.c.Dir, fmt.Sprintf("%s%020d%s", j.c.Prefix, j.next, suffix))
	j.mu.Unlock()
	var head []byte
	if j.c.Head != nil {
		if head, err = j.c.Head(); err != nil {
			return nil, 0, fmt.Errorf("new file: %w", err)
		}
	}
	if f, err = j.create(path, head); err != nil {
		return nil, 0, fmt.Errorf("new file: %w", err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.files = append(j.files, f)
	j.next++
	return f, f.size, nil
}

func (j *Journal) create(path string, head []byte) (*file, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if len(head) > 0 {
		_, err = f.Write(head)
		err = errors.Join(err, f.Sync())
	}
	if err == nil {
		err = SyncDir(j.c.Dir)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close(), os.Remove(path))
	}
	return &file{path: path, f: f, size: int64(len(head)), taken: int64(len(head))}, nil
}

// Part is the beginning of what nobody has taken yet. It is of one file.
type Part struct {
	Bytes []byte // at least one, at most what was asked for: the last record may not be whole
	Path  string
	From  int64 // where in the file it begins

	j    *Journal
	f    *file
	size int64 // of the file as it was read
}

// Next reads up to most bytes that nobody has taken; nil where nothing waits.
func (j *Journal) Next(most int) (*Part, error) {
	j.mu.Lock()
	i := slices.IndexFunc(j.files, func(f *file) bool { return f.taken < f.size })
	if i < 0 {
		j.mu.Unlock()
		return nil, nil
	}
	p := &Part{j: j, f: j.files[i], Path: j.files[i].path, From: j.files[i].taken, size: j.files[i].size}
	j.mu.Unlock()
	f, err := os.Open(p.Path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // it is only read
	p.Bytes = make([]byte, min(p.size-p.From, int64(most)))
	if _, err := f.ReadAt(p.Bytes, p.From); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return p, nil
}

// Take says that the first n bytes were taken.
func (p *Part) Take(n int) { p.upTo(p.From + int64(n)) }

// Skip says that the file ends within a record, which was never synced: nobody relied on it.
func (p *Part) Skip() { p.upTo(p.size) }

func (p *Part) upTo(at int64) {
	p.j.mu.Lock()
	defer p.j.mu.Unlock()
	p.f.taken = at
}

// SetAside takes a damaged file out of the way and keeps it for people. It returns how many bytes the journal holds less.
func (p *Part) SetAside() (int64, error) {
	if err := os.Rename(p.Path, p.Path+".damaged"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return 0, err
	}
	p.j.mu.Lock()
	defer p.j.mu.Unlock()
	p.j.files = slices.DeleteFunc(p.j.files, func(f *file) bool { return f == p.f })
	if p.f.f != nil {
		return p.f.size, p.f.f.Close()
	}
	return p.f.size, nil
}

// Drop removes files that were taken whole and are written no more; last says whether the last of all may go too. It returns how many
// bytes the disk holds less.
func (j *Journal) Drop(last bool) (n int64, err error) {
	for {
		j.mu.Lock()
		if len(j.files) == 0 || !j.files[0].sealed || j.files[0].taken < j.files[0].size || len(j.files) == 1 && !last {
			j.mu.Unlock()
			return n, nil
		}
		f := j.files[0]
		j.mu.Unlock()
		if err := os.Remove(f.path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return n, fmt.Errorf("drop %s: %w", f.path, err)
		}
		j.mu.Lock()
		j.files, n = j.files[1:], n+f.size
		j.mu.Unlock()
	}
}

// Close lets go of the files, and drops what may go. Nobody writes or takes any more.
func (j *Journal) Close(last bool) error {
	var err error
	j.mu.Lock()
	for _, f := range j.files {
		if f.f != nil {
			err = errors.Join(err, f.f.Close())
			f.f, f.sealed = nil, true
		}
	}
	j.mu.Unlock()
	_, derr := j.Drop(last)
	return errors.Join(err, derr)
}

// SyncDir makes the names in a directory durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
