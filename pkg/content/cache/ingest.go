package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxMediaType bounds media types; RFC 6838 allows 127 characters on each side of the slash.
const maxMediaType = 255

// stage is how far an ingest is.
type stage int

const (
	arriving  stage = iota // May be written.
	syncing                // Complete; no more writes.
	committed              // Held by the cache, and pinned.
	discarded              // Over.
)

// Ingest is a file for a blob on its way, which gets its space on the disk as it is written, in any order, and may be
// read meanwhile. What of it is valid is for its owner to know. It is safe for concurrent use.
//
// Discard has to be called in the end, whether it was committed or not.
type Ingest struct {
	cache   *Cache
	digest  digest.Digest
	promise *promise
	size    int64
	step    int64
	file    *os.File

	// rooms has a bit for each step of the file that has its room, set for good once it is there.
	rooms []atomic.Uint64
	// growing is held while steps get their room. Who writes where there is room does not wait for it.
	growing sync.Mutex

	ending sync.Mutex // Makes Commit and Discard exclude each other.

	mu    sync.RWMutex // Guards what follows. Writers hold it for reading.
	stage stage
	path  string
	entry *entry // Set once committed.
}

// Create begins a blob of that many bytes, which an owner brings. It makes room for the first step, so that a disk that
// takes nothing shows now; for the others, room is made as bytes are written. The error wraps ErrNoSpace if it is clear
// that there can't be enough.
func (c *Cache) Create(owner content.Owner, dgst digest.Digest, size int64) (*Ingest, error) {
	if _, err := reference.ParseDigest(dgst.String()); err != nil {
		return nil, fmt.Errorf("create ingest: %w", err)
	}
	if size < 0 {
		return nil, fmt.Errorf("create ingest for %s: a size of %d bytes", dgst, size)
	}
	p, err := c.promise(owner, size)
	if err != nil {
		return nil, fmt.Errorf("create ingest for %s of %d bytes: %w", dgst, size, err)
	}
	file, err := c.createFile(dgst, size)
	if err != nil {
		c.release(p)
		return nil, fmt.Errorf("create ingest for %s of %d bytes: %w", dgst, size, c.noSpace(err, probeLeast))
	}
	step := stepOf(size)
	i := &Ingest{
		cache: c, digest: dgst, promise: p, size: size, step: step, file: file, path: file.Name(),
		rooms: make([]atomic.Uint64, (size/step)/64+1),
	}
	if err := i.makeRoom(0, min(size, step)); err != nil {
		err = errors.Join(err, i.Discard())
		return nil, fmt.Errorf("create ingest for %s of %d bytes: %w", dgst, size, err)
	}
	return i, nil
}

func (c *Cache) createFile(dgst digest.Digest, size int64) (*os.File, error) {
	file, err := os.CreateTemp(c.dir.ingest(), dgst.Encoded()[:12]+"-*")
	if err != nil {
		return nil, err
	}
	if err := file.Truncate(size); err != nil {
		return nil, errors.Join(err, file.Close(), os.Remove(file.Name()))
	}
	return file, nil
}

// makeRoom makes room for what is about to be written, in whole steps.
func (i *Ingest) makeRoom(off, n int64) error {
	if n == 0 {
		return nil
	}
	for step := off / i.step; step <= (off+n-1)/i.step; step++ {
		if i.hasRoom(step) {
			continue
		}
		if err := i.makeStep(step); err != nil {
			return err
		}
	}
	return nil
}

func (i *Ingest) hasRoom(step int64) bool { return i.rooms[step/64].Load()&(1<<(step%64)) != 0 }

func (i *Ingest) makeStep(step int64) error {
	i.growing.Lock()
	defer i.growing.Unlock()
	if i.hasRoom(step) {
		return nil
	}
	c, off := i.cache, step*i.step
	n := min(i.step, i.size-off)
	if err := c.grow(i.promise, n); err != nil {
		return err
	}
	i.rooms[step/64].Or(1 << (step % 64)) // Also where the disk has none: who tries again hears so from the disk.
	err := allocate(i.file, off, n)
	if isNoSpace(err) && c.free(i.promise.owner, n) {
		err = allocate(i.file, off, n)
	}
	return c.noSpace(err, n)
}

// noSpace turns caching off if err says that the disk is full, and makes it an ErrNoSpace then.
func (c *Cache) noSpace(err error, size int64) error {
	if !isNoSpace(err) {
		return err
	}
	c.turnOff(err, size)
	return fmt.Errorf("%w: %w", ErrNoSpace, err)
}

// WriteAt implements io.WriterAt within the blob's size, until Commit. The error wraps ErrNoSpace when the disk is
// full, or what is held can't make room.
func (i *Ingest) WriteAt(p []byte, off int64) (int, error) {
	if err := content.CheckRange(i.size, off, int64(len(p))); err != nil {
		return 0, fmt.Errorf("write to ingest of %s: %w", i.digest, err)
	}
	i.mu.RLock()
	defer i.mu.RUnlock()
	if i.stage != arriving {
		return 0, fmt.Errorf("write to ingest of %s: it has ended", i.digest)
	}
	if err := i.makeRoom(off, int64(len(p))); err != nil {
		return 0, fmt.Errorf("write to ingest of %s: %w", i.digest, err)
	}
	n, err := i.file.WriteAt(p, off)
	if err != nil {
		return n, fmt.Errorf("write to ingest of %s: %w", i.digest, i.cache.noSpace(err, i.step))
	}
	return n, nil
}

// ReadAt implements io.ReaderAt, until Discard.
func (i *Ingest) ReadAt(p []byte, off int64) (int, error) { return i.file.ReadAt(p, off) }

// Reader opens the file once more, with an offset of its own, so that it can be handed to sendfile(2). The caller
// closes it; it outlives the ingest. While the ingest is not discarded, its space is accounted for.
func (i *Ingest) Reader() (*os.File, error) {
	i.mu.RLock()
	defer i.mu.RUnlock()
	if i.stage == discarded {
		return nil, fmt.Errorf("read ingest of %s: it has ended", i.digest)
	}
	file, err := os.Open(i.path)
	if errors.Is(err, os.ErrNotExist) {
		// Its name was taken from it after Commit, but the file is still there for who has it open.
		file, err = os.Open("/proc/self/fd/" + strconv.Itoa(int(i.file.Fd())))
	}
	if err != nil {
		return nil, fmt.Errorf("read ingest of %s: %w", i.digest, err)
	}
	return file, nil
}

// Commit makes the blob held, on disk. The caller has verified that what was written is what the digest says. It
// waits until the disk has all of it, which takes seconds for large blobs: readers should have their bytes by then.
// The blob is pinned until Discard. The error wraps ErrNoSpace when the blob can't be kept; it can still be read here.
//
// The media type is what was declared, and counts only where the bytes say none and none is known.
func (i *Ingest) Commit(ctx context.Context, mediaType string) error {
	i.ending.Lock()
	defer i.ending.Unlock()
	if err := i.begin(ctx, mediaType); err != nil {
		return fmt.Errorf("commit %s: %w", i.digest, err)
	}
	c := i.cache
	if err := i.file.Sync(); err != nil {
		return fmt.Errorf("commit %s: sync: %w", i.digest, c.noSpace(err, i.step))
	}
	said, err := sniff(i.file, i.size)
	if err != nil {
		return fmt.Errorf("commit %s: %w", i.digest, err)
	}
	if err := i.name(trueMediaType(said, mediaType)); err != nil {
		return fmt.Errorf("commit %s: %w", i.digest, c.noSpace(err, i.step))
	}
	if err := syncDir(filepath.Dir(c.dir.blob(i.digest))); err != nil {
		return fmt.Errorf("commit %s: sync directory: %w", i.digest, c.noSpace(err, i.step))
	}
	if err := c.flush(); err != nil {
		// The blob is held all the same: the change waits for the next flush, and start-up adopts what has no record.
		c.log.V(1).Info("the index does not have a new blob yet", "digest", i.digest, "cause", err.Error())
	}
	return nil
}

func (i *Ingest) begin(ctx context.Context, mediaType string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if len(mediaType) > maxMediaType {
		return fmt.Errorf("a media type of %d characters", len(mediaType))
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.stage != arriving {
		return errors.New("it has ended") // Also after a sync failed: a second one would wrongly succeed.
	}
	if err := i.makeRoom(0, i.size); err != nil { // What was never written has to be accounted for as well.
		return err
	}
	if !i.promise.kept() {
		return fmt.Errorf("%w to keep it", ErrNoSpace)
	}
	i.stage = syncing
	return nil
}

// name gives the file its name in the cache, in place of any other of that digest: this one was verified just now.
func (i *Ingest) name(mediaType string) error {
	c := i.cache
	c.names.Lock()
	defer c.names.Unlock()
	i.mu.Lock()
	defer i.mu.Unlock()
	c.mu.Lock()
	closed := c.closed
	c.mu.Unlock()
	if closed {
		return ErrClosed // The directory may be another process's by now.
	}
	path := c.dir.blob(i.digest)
	if err := os.Rename(i.path, path); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ledger.release(i.promise)
	now := c.cfg.Now()
	c.ledger.add(i.digest, i.size, mediaType, i.promise.owner, now)
	i.entry = c.ledger.use(i.digest, now)
	i.stage, i.path = committed, path
	return nil
}

// Discard ends the ingest. If it was not committed, its file is removed; if it was, the blob is no longer pinned.
// Files that Reader opened stay readable. Calling it again does nothing more.
func (i *Ingest) Discard() error {
	i.ending.Lock()
	defer i.ending.Unlock()
	i.mu.Lock()
	defer i.mu.Unlock()
	was := i.stage
	i.stage = discarded
	if was == discarded {
		return nil
	}
	err := i.file.Close()
	if was == committed {
		i.cache.unpin(i.entry)
	} else {
		if removeErr := os.Remove(i.path); !errors.Is(removeErr, os.ErrNotExist) { // A later cache wiped it.
			err = errors.Join(err, removeErr)
		}
		i.cache.release(i.promise)
	}
	if err != nil {
		return fmt.Errorf("discard ingest of %s: %w", i.digest, err)
	}
	return nil
}

// Put makes the cache hold a small blob, which an owner brings: a manifest. It verifies the digest, and returns when
// the disk has it. The media type is as Commit has it: Put never changes that of what is held. The error wraps
// ErrNoSpace if it can't be kept.
func (c *Cache) Put(ctx context.Context, owner content.Owner, desc ocispec.Descriptor, body []byte) (err error) {
	if _, err := reference.ParseDigest(desc.Digest.String()); err != nil {
		return fmt.Errorf("put: %w", err)
	}
	if int64(len(body)) != desc.Size {
		return fmt.Errorf("put %s: %d bytes instead of %d", desc.Digest, len(body), desc.Size)
	}
	if got := desc.Digest.Algorithm().FromBytes(body); got != desc.Digest {
		return fmt.Errorf("put %s: the bytes have digest %s", desc.Digest, got)
	}
	if c.renew(owner, desc, body) {
		return nil
	}
	ingest, err := c.Create(owner, desc.Digest, desc.Size)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ingest.Discard()) }()
	if _, err := ingest.WriteAt(body, 0); err != nil {
		return err
	}
	return ingest.Commit(ctx, desc.MediaType)
}

// renew counts a use of a blob if it is held with just these bytes, and notes who brought it once more.
func (c *Cache) renew(owner content.Owner, desc ocispec.Descriptor, body []byte) bool {
	c.mu.Lock()
	e := (*entry)(nil)
	if !c.closed && len(desc.MediaType) <= maxMediaType {
		e = c.ledger.use(desc.Digest, c.cfg.Now())
	}
	c.mu.Unlock()
	if e == nil {
		return false
	}
	defer c.unpin(e)
	file, err := c.openFile(e)
	if err != nil {
		return false
	}
	defer file.Close()
	held := make([]byte, len(body))
	if _, err := io.ReadFull(file, held); err != nil || !bytes.Equal(held, body) {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if e.Held() { // What the bytes say was noted when they came.
		c.ledger.brought(e, trueMediaType("", desc.MediaType), owner)
	}
	return e.Held()
}
