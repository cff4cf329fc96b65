package cache

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

const (
	// corruptSuffix is what a corrupt index's name gets. One is kept, for whoever wants to know what happened.
	corruptSuffix = ".corrupt"

	// maxPlace bounds the places in the cache's queues, so that counting on from there does not overflow.
	maxPlace = 1 << 62

	// indexTimeout bounds the wait for bbolt's own lock. The directory's lock is held by then, so only foreign tools
	// that look into the file can hold this one.
	indexTimeout = time.Second
)

// The buckets' names have the version of what is in them: another format would use other names beside them.
var (
	blobsBucket = []byte("blobs/v1")
	tagsBucket  = []byte("tags/v1")

	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// corruptError says that the index can't be read or written for what is in it, and that it was moved aside.
type corruptError struct{ cause error }

func (e *corruptError) Error() string { return "corrupt index: " + e.cause.Error() }
func (e *corruptError) Unwrap() error { return e.cause }

// tagRecord is what the index says of a tag.
type tagRecord struct {
	MediaType string        `json:"mediaType,omitempty"`
	Digest    digest.Digest `json:"digest"`
	Size      int64         `json:"size"`
	Confirmed time.Time     `json:"confirmed"`
	Author    string        `json:"author,omitempty"`
}

// index is the file that a ledger survives in. It is not safe for concurrent use. Where bbolt finds its file in a
// state that it can't make sense of, which it tells by panicking or by touching memory that is not there, the file is
// moved aside and the index is closed: opening it again starts an empty one.
type index struct {
	path string
	db   *bolt.DB
}

func (x *index) isOpen() bool { return x.db != nil }

// open opens the file, or makes a new one.
func (x *index) open() error {
	err := x.guard(func() error {
		db, err := bolt.Open(x.path, 0o600, &bolt.Options{Timeout: indexTimeout, FreelistType: bolt.FreelistMapType})
		switch {
		case errors.Is(err, bolterrors.ErrTimeout):
			return fmt.Errorf("another process has %s", x.path)
		case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrChecksum),
			errors.Is(err, bolterrors.ErrVersionMismatch):
			return &corruptError{err}
		case err != nil && !errors.As(err, new(syscall.Errno)):
			return &corruptError{err} // bbolt has more errors about what is in the file than it has names for.
		case err != nil:
			return err
		}
		x.db = db
		return checkIndex(db)
	})
	if err != nil {
		return fmt.Errorf("open index: %w", err)
	}
	return nil
}

// checkIndex looks for damage that would show itself only later, by a wrong page being overwritten.
func checkIndex(db *bolt.DB) error {
	info, err := os.Stat(db.Path())
	if err != nil {
		return err
	}
	return db.View(func(tx *bolt.Tx) error {
		if info.Size() < tx.Size() {
			return &corruptError{fmt.Errorf("file of %d bytes should have %d", info.Size(), tx.Size())}
		}
		// All that is reachable is read once here, where a fault can be caught: Check reads in a goroutine.
		err := tx.ForEach(func(_ []byte, b *bolt.Bucket) error {
			return b.ForEach(func(_, _ []byte) error { return nil })
		})
		if err != nil {
			return &corruptError{err}
		}
		var first error
		for err := range tx.Check() { // Has to be read to its end.
			if first == nil {
				first = &corruptError{err}
			}
		}
		return first
	})
}

// load reads everything into two maps. Records that are damaged are left out, and their keys given.
func (x *index) load(blobs map[digest.Digest]record, tags map[string]content.Tag) (damaged changes, err error) {
	damaged = changes{blobs: make(map[digest.Digest]*record), tags: make(map[string]*content.Tag)}
	err = x.guard(func() error {
		return x.db.View(func(tx *bolt.Tx) error {
			err := forEach(tx, blobsBucket, func(k, v []byte) {
				if dgst, r, err := decodeBlob(k, v); err == nil {
					blobs[dgst] = r
				} else {
					damaged.blobs[digest.Digest(k)] = nil
				}
			})
			if err != nil {
				return err
			}
			return forEach(tx, tagsBucket, func(k, v []byte) {
				if tag, err := decodeTag(k, v); err == nil {
					tags[string(k)] = tag
				} else {
					damaged.tags[string(k)] = nil
				}
			})
		})
	})
	if err != nil {
		return changes{}, fmt.Errorf("read index: %w", err)
	}
	return damaged, nil
}

func forEach(tx *bolt.Tx, bucket []byte, read func(k, v []byte)) error {
	b := tx.Bucket(bucket)
	if b == nil {
		return nil
	}
	return b.ForEach(func(k, v []byte) error {
		read(k, v)
		return nil
	})
}

// write writes changes and syncs them.
func (x *index) write(batch changes) error {
	err := x.guard(func() error {
		return x.db.Update(func(tx *bolt.Tx) error {
			blobs, err := tx.CreateBucketIfNotExists(blobsBucket)
			if err != nil {
				return err
			}
			tags, err := tx.CreateBucketIfNotExists(tagsBucket)
			if err != nil {
				return err
			}
			for dgst, r := range batch.blobs {
				if err := put(blobs, string(dgst), r, r == nil); err != nil {
					return err
				}
			}
			for name, tag := range batch.tags {
				var r tagRecord
				if tag != nil {
					t := tag.Target
					r = tagRecord{MediaType: t.MediaType, Digest: t.Digest, Size: t.Size, Confirmed: tag.Confirmed, Author: tag.Author}
				}
				if err := put(tags, name, r, tag == nil); err != nil {
					return err
				}
			}
			return nil
		})
	})
	if err != nil {
		return fmt.Errorf("write index: %w", err)
	}
	return nil
}

func (x *index) close() error {
	if x.db == nil {
		return nil
	}
	err := x.guard(x.db.Close)
	x.db = nil
	return err
}

// guard calls f and turns bbolt's panics into corruptErrors. On one of those it moves the file aside.
func (x *index) guard(f func() error) error {
	err := func() (err error) {
		// A file that was cut short faults where it is read through its mapping.
		defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
		defer func() {
			if p := recover(); p != nil {
				x.db = nil // What locks it holds now is unknown, so it can't even be closed.
				err = &corruptError{fmt.Errorf("%v", p)}
			}
		}()
		return f()
	}()
	var corrupt *corruptError
	if !errors.As(err, &corrupt) {
		return err
	}
	if x.db != nil {
		err = errors.Join(err, x.db.Close())
		x.db = nil
	}
	return errors.Join(err, os.Rename(x.path, x.path+corruptSuffix))
}

// put writes one record, behind a checksum of its key and itself: bbolt has none but for its first pages, and a wrong
// media type would fail pulls.
func put(b *bolt.Bucket, key string, value any, remove bool) error {
	if remove {
		return b.Delete([]byte(key))
	}
	text, err := json.Marshal(value)
	if err != nil {
		return err
	}
	sealed := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(text)), checksum([]byte(key), text))
	return b.Put([]byte(key), append(sealed, text...))
}

func unseal(key, sealed []byte, value any) error {
	if len(sealed) < 4 {
		return errors.New("record is too short")
	}
	text := sealed[4:]
	if binary.BigEndian.Uint32(sealed) != checksum(key, text) {
		return errors.New("record does not match its checksum")
	}
	return json.Unmarshal(text, value)
}

func checksum(key, text []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, text)
}

func decodeBlob(key, sealed []byte) (digest.Digest, record, error) {
	var r record
	dgst, err := reference.ParseDigest(string(key))
	if err == nil {
		err = unseal(key, sealed, &r)
	}
	if err == nil && (r.Size < 0 || r.Place > maxPlace) {
		err = errors.New("a number is outside of its bounds")
	}
	return dgst, r, err
}

func decodeTag(key, sealed []byte) (content.Tag, error) {
	var r tagRecord
	if err := unseal(key, sealed, &r); err != nil {
		return content.Tag{}, err
	}
	if _, err := reference.ParseDigest(r.Digest.String()); err != nil {
		return content.Tag{}, err
	}
	target := ocispec.Descriptor{MediaType: r.MediaType, Digest: r.Digest, Size: r.Size}
	return content.Tag{Target: target, Confirmed: r.Confirmed, Author: r.Author}, nil
}
