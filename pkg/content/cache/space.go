package cache

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

const (
	// probeLeast and probeMost bound how much room a full disk must have again before caching goes on: as much as what
	// failed, so that it does not fail again at once, but one large blob must not keep all others out for ever.
	probeLeast = 1 << 20
	probeMost  = 256 << 20

	// probeWrite is how much a probe really writes and syncs: some file systems promise what they do not have.
	probeWrite = 64 << 10
)

// space is whether the disk takes more.
type space struct {
	full bool
	need int64 // How many bytes a probe must find room for.
}

func isNoSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// turnOff stops caching because the disk had no room for size bytes. It says so once, not to every caller.
func (c *Cache) turnOff(cause error, size int64) {
	if errors.Is(cause, syscall.ENOSPC) && size > probeMost && available(string(c.dir)) >= probeMost {
		return // The disk is not full, that one blob is just too large for what is left of it.
	}
	c.mu.Lock()
	was := c.space.full
	c.space.full = true
	c.space.need = min(max(size, c.space.need, probeLeast), probeMost)
	need := c.space.need
	c.mu.Unlock()
	if !was {
		c.log.Error(cause, "the disk is full: nothing new is cached until it has room again, pulls go on",
			"dir", string(c.dir), "neededBytes", need)
	}
}

// probe looks whether a full disk has room again.
func (c *Cache) probe() {
	c.mu.Lock()
	full, need := c.space.full, c.space.need
	c.mu.Unlock()
	if !full || available(string(c.dir)) < need {
		return
	}
	if err := tryWrite(c.dir.ingest(), need); err != nil {
		c.log.V(1).Info("the disk is still full", "dir", string(c.dir), "neededBytes", need, "cause", err.Error())
		return
	}
	c.mu.Lock()
	c.space = space{}
	c.mu.Unlock()
	c.log.Info("the disk has room again: caching goes on", "dir", string(c.dir))
}

// available says how many bytes a file system has left for us. Where it can't say, everything is: trying will tell.
func available(dir string) int64 {
	const unknown = 1 << 62
	var stat syscall.Statfs_t
	if syscall.Statfs(dir, &stat) != nil {
		return unknown
	}
	blocks, size := uint64(stat.Bavail), uint64(stat.Bsize)
	if size == 0 || blocks > unknown/size {
		return unknown
	}
	return int64(blocks * size)
}

// tryWrite writes and removes a file that takes size bytes.
func tryWrite(dir string, size int64) (err error) {
	file, err := os.CreateTemp(dir, "probe-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close(), os.Remove(file.Name())) }()
	if err := allocate(file, 0, size); err != nil {
		return fmt.Errorf("allocate %d bytes: %w", size, err)
	}
	if _, err := file.WriteAt(make([]byte, probeWrite), 0); err != nil {
		return err
	}
	return file.Sync()
}
