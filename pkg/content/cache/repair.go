package cache

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/opencontainers/go-digest"
)

// found is a blob's file that start-up came across.
type found struct {
	size    int64
	changed time.Time
}

// repaired counts what a start found to do.
type repaired struct {
	damaged   int // Records that did not match their checksum.
	lost      int // Records whose file is gone.
	cut       int // Files whose size is not what the record says.
	adopted   int // Files without a record.
	strange   int // What is no blob.
	leftovers int // Of ingests.
	evicted   int // For bounds that were lowered.
}

// repair fills the ledger with what the files and the index say, and makes the two agree. It runs before the cache is
// used by anybody.
func (c *Cache) repair() error {
	var (
		did repaired
		err error
	)
	if did.leftovers, err = wipe(c.dir.ingest()); err != nil {
		return fmt.Errorf("wipe leftovers: %w", err)
	}
	records, tags, err := c.loadIndex(&did)
	if err != nil {
		return err
	}
	files := make(map[digest.Digest]found)
	err = walkBlobs(c.dir, func(dgst digest.Digest, info fs.FileInfo) {
		files[dgst] = found{info.Size(), info.ModTime()}
	}, func(path, why string) {
		did.strange++
		c.log.V(1).Info("left alone what is no blob", "path", path, "reason", why)
	})
	if err != nil {
		return fmt.Errorf("list blobs: %w", err)
	}
	c.merge(records, files, &did)
	c.mergeTags(tags)
	for _, b := range c.ledger.trim() {
		c.unlink(b.Digest)
		did.evicted++
	}
	if err := c.flush(); err != nil && !isNoSpace(err) {
		return err
	}
	level := 1
	if did != (repaired{}) {
		level = 0
	}
	c.log.V(level).Info("opened the cache", "dir", string(c.dir), "blobs", len(c.ledger.blobs), "bytes", c.ledger.policy.Bytes(),
		"tags", len(c.ledger.tags), "leftoversRemoved", did.leftovers, "damagedRecords", did.damaged,
		"recordsWithoutFile", did.lost, "filesOfWrongSize", did.cut, "filesAdopted", did.adopted,
		"strangeFiles", did.strange, "evicted", did.evicted)
	return nil
}

// wipe empties a directory, and says how much was in it.
func wipe(dir string) (int, error) {
	names, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	for _, n := range names {
		if err := os.RemoveAll(filepath.Join(dir, n.Name())); err != nil {
			return 0, err
		}
	}
	return len(names), nil
}

// loadIndex reads the index. A corrupt one is moved aside, and one that can't be made because the disk is full has to
// wait: nothing is lost by that but last uses and tags.
func (c *Cache) loadIndex(did *repaired) (map[digest.Digest]record, map[string]content.Tag, error) {
	records := make(map[digest.Digest]record)
	tags := make(map[string]content.Tag)
	err := c.index.open()
	if err == nil {
		var damaged changes
		damaged, err = c.index.load(records, tags)
		did.damaged = len(damaged.blobs) + len(damaged.tags)
		c.ledger.giveBack(damaged) // What is not known otherwise will be deleted.
	}
	var corrupt *corruptError
	switch {
	case errors.As(err, &corrupt):
		c.log.Error(err, "the cache's index was corrupt: moved aside, and rebuilt from the blobs",
			"aside", c.dir.corruptIndex())
		clear(records)
		clear(tags)
		return records, tags, nil // The first flush makes a new one.
	case isNoSpace(err):
		c.turnOff(err, 0)
		return records, tags, nil
	}
	return records, tags, err
}

// merge fills the ledger, in the order in which the blobs are in their queues. Those without a place, of an earlier
// version or of no record, are the first, the least recently used before the others.
func (c *Cache) merge(records map[digest.Digest]record, files map[digest.Digest]found, did *repaired) {
	for dgst := range records {
		if _, ok := files[dgst]; !ok {
			delete(records, dgst)
			c.ledger.changedBlobs[dgst] = struct{}{}
			did.lost++
		}
	}
	for dgst, file := range files {
		r, known := records[dgst]
		switch {
		case known && r.Size == file.size && r.Version >= recordVersion:
		case known && r.Size == file.size:
			said, err := sniffFile(c.dir.blob(dgst))
			if err != nil {
				c.log.Error(err, "a blob's media type can't be read: what was declared stays", "digest", dgst)
			}
			r.MediaType = trueMediaType(said, r.MediaType)
			records[dgst] = r
			c.ledger.changedBlobs[dgst] = struct{}{}
		case known:
			c.log.Info("dropped a blob from the cache", "digest", dgst, "reason", "its file has the wrong size",
				"bytes", file.size, "want", r.Size)
			c.unlink(dgst)
			delete(records, dgst)
			c.ledger.changedBlobs[dgst] = struct{}{}
			did.cut++
		default:
			mediaType, err := sniffFile(c.dir.blob(dgst))
			if err != nil {
				c.log.Error(err, "left alone a blob that can't be read", "digest", dgst)
				did.strange++
				continue
			}
			records[dgst] = record{Size: file.size, MediaType: mediaType, LastUse: file.changed}
			c.ledger.changedBlobs[dgst] = struct{}{}
			did.adopted++
		}
	}
	order := slices.SortedFunc(maps.Keys(records), func(a, b digest.Digest) int {
		return cmp.Or(cmp.Compare(records[a].Place, records[b].Place),
			records[a].LastUse.Compare(records[b].LastUse), strings.Compare(string(a), string(b)))
	})
	for _, dgst := range order {
		c.ledger.insert(dgst, records[dgst])
	}
}

// mergeTags fills the ledger with tags, the first confirmed one first.
func (c *Cache) mergeTags(tags map[string]content.Tag) {
	order := slices.SortedFunc(maps.Keys(tags), func(a, b string) int {
		return cmp.Or(tags[a].Confirmed.Compare(tags[b].Confirmed), strings.Compare(a, b))
	})
	for _, name := range order {
		c.ledger.insertTag(name, tags[name])
	}
}

// walkBlobs calls blob for every file that could be a blob's, and strange for everything else below blobs/.
func walkBlobs(dir layout, blob func(digest.Digest, fs.FileInfo), strange func(path, why string)) error {
	algorithms, err := os.ReadDir(dir.blobs())
	if err != nil {
		return err
	}
	for _, a := range algorithms {
		path := filepath.Join(dir.blobs(), a.Name())
		if alg := digest.Algorithm(a.Name()); !a.IsDir() || (alg != digest.SHA256 && alg != digest.SHA512) {
			strange(path, "it is no directory of a digest algorithm")
			continue
		}
		files, err := os.ReadDir(path)
		if err != nil {
			return err
		}
		for _, f := range files {
			path := filepath.Join(path, f.Name())
			dgst, err := reference.ParseDigest(a.Name() + ":" + f.Name())
			if err != nil {
				strange(path, "its name is no digest")
				continue
			}
			info, err := f.Info()
			switch {
			case errors.Is(err, fs.ErrNotExist): // Evicted meanwhile, by the daemon that Verify runs beside.
			case err != nil:
				return err
			case !info.Mode().IsRegular():
				strange(path, "it is no regular file")
			default:
				blob(dgst, info)
			}
		}
	}
	return nil
}
