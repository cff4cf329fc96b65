package events

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// lockTimeout is how long to wait for a mirror that is just ending.
const lockTimeout = 5 * time.Second

// disk holds one queue for each endpoint, by a name that does not show its URL. It is safe for concurrent use.
type disk struct {
	db *bbolt.DB

	mu     sync.Mutex
	counts map[string]int
}

// item is a queued event, and where it is in the queue.
type item struct {
	key  []byte
	data []byte
}

// openDisk opens the file, or starts anew where it can't be read: events are worth less than a mirror that runs.
func openDisk(path string, names []string, log logr.Logger) (*disk, error) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: lockTimeout})
	if errors.Is(err, bolterrors.ErrInvalid) || errors.Is(err, bolterrors.ErrChecksum) || errors.Is(err, bolterrors.ErrVersionMismatch) {
		log.Info("queue of events can't be read, and starts anew", "path", path, "reason", err.Error())
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("open queue of events: %w", err)
		}
		db, err = bbolt.Open(path, 0o600, &bbolt.Options{Timeout: lockTimeout})
	}
	if err != nil {
		return nil, fmt.Errorf("open queue of events %s: %w", path, err)
	}
	d := &disk{db: db, counts: map[string]int{}}
	if err := d.prepare(names); err != nil {
		return nil, errors.Join(fmt.Errorf("open queue of events %s: %w", path, err), db.Close())
	}
	return d, nil
}

// prepare makes the queues that are missing, drops those that nobody reads, and counts.
func (d *disk) prepare(names []string) error {
	return d.db.Update(func(tx *bbolt.Tx) error {
		var old [][]byte
		err := tx.ForEach(func(name []byte, _ *bbolt.Bucket) error {
			if !slices.Contains(names, string(name)) {
				old = append(old, slices.Clone(name))
			}
			return nil
		})
		if err != nil {
			return err
		}
		for _, name := range old {
			if err := tx.DeleteBucket(name); err != nil {
				return err
			}
		}
		for _, name := range names {
			b, err := tx.CreateBucketIfNotExists([]byte(name))
			if err != nil {
				return err
			}
			d.counts[name] = b.Stats().KeyN
		}
		return nil
	})
}

func (d *disk) close() error { return d.db.Close() }

// total is how many events there are, over all queues.
func (d *disk) total() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	sum := 0
	for _, n := range d.counts {
		sum += n
	}
	return sum
}

// add puts events at the end of a queue, as many as there is room for, and tells how many. It returns when the disk has
// them.
func (d *disk) add(name string, events [][]byte, most int) (int, error) {
	d.mu.Lock()
	room := max(0, most-d.counts[name])
	d.mu.Unlock()
	events = events[:min(len(events), room)]
	if len(events) == 0 {
		return 0, nil
	}
	err := d.db.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte(name))
		for _, e := range events {
			n, err := b.NextSequence()
			if err != nil {
				return err
			}
			if err := b.Put(binary.BigEndian.AppendUint64(nil, n), e); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	d.count(name, len(events))
	return len(events), nil
}

func (d *disk) count(name string, n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.counts[name] += n
}

// first gives the oldest events of a queue.
func (d *disk) first(name string, most int) (items []item, err error) {
	err = d.db.View(func(tx *bbolt.Tx) error {
		c := tx.Bucket([]byte(name)).Cursor()
		for k, v := c.First(); k != nil && len(items) < most; k, v = c.Next() {
			items = append(items, item{slices.Clone(k), slices.Clone(v)})
		}
		return nil
	})
	return items, err
}

// remove takes events off a queue.
func (d *disk) remove(name string, items []item) error {
	err := d.db.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte(name))
		for _, i := range items {
			if err := b.Delete(i.key); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		d.count(name, -len(items))
	}
	return err
}
