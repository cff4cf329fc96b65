package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"github.com/opencontainers/go-digest"
)

const (
	// verifyStep is how much is read and hashed between two looks at the context.
	verifyStep = 1 << 20

	// progressStep is how many bytes pass between two calls of a progress function inside one blob.
	progressStep = 64 << 20
)

// Progress is how far a Verify is.
type Progress struct {
	Checked, Blobs    int   // Blobs that were read, of how many.
	Bytes, TotalBytes int64 // Bytes that were read, of how many.
	Dropped           int
}

// Dropped is a blob that did not match its digest.
type Dropped struct {
	Digest digest.Digest
	Size   int64
	Reason string
}

// Report is what Verify found.
type Report struct {
	Checked  int   // Blobs that were read.
	Bytes    int64 // How many bytes they have.
	Dropped  []Dropped
	Vanished int // Blobs that were removed by someone else before they could be read.
	InFlight int // Blobs on their way, or leftovers of a crash that the next start wipes. They are not touched.
	Strange  []string
}

type candidate struct {
	digest digest.Digest
	size   int64
}

// Verify reads every blob of the cache in dir and removes those that do not match their digests. It needs no lock: a
// daemon that uses the directory finds that a file is gone when it next opens it, and the next start repairs the
// index. progress may be nil. When ctx ends, the report says what was done until then.
func Verify(ctx context.Context, dir string, progress func(Progress)) (Report, error) {
	var (
		l      = layout(dir)
		report Report
		blobs  []candidate
		p      Progress
	)
	err := walkBlobs(l, func(dgst digest.Digest, info fs.FileInfo) {
		blobs = append(blobs, candidate{dgst, info.Size()})
		p.TotalBytes += info.Size()
	}, func(path, why string) {
		report.Strange = append(report.Strange, path+": "+why)
	})
	if err != nil {
		return report, fmt.Errorf("verify cache in %s: %w", dir, err)
	}
	ingests, err := os.ReadDir(l.ingest())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return report, fmt.Errorf("verify cache in %s: %w", dir, err)
	}
	report.InFlight = len(ingests)
	p.Blobs = len(blobs)
	if progress == nil {
		progress = func(Progress) {}
	}
	v := verifier{report: &report, progress: progress, at: p, buf: make([]byte, verifyStep)}
	for _, b := range blobs {
		if err := v.check(ctx, l.blob(b.digest), b.digest); err != nil {
			return report, fmt.Errorf("verify cache in %s: %s: %w", dir, b.digest, err)
		}
	}
	return report, nil
}

type verifier struct {
	report   *Report
	progress func(Progress)
	at       Progress
	buf      []byte
}

// check reads one blob, and removes it if it is not what its name says.
func (v *verifier) check(ctx context.Context, path string, dgst digest.Digest) error {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		v.report.Vanished++
		return nil
	}
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	before := v.at.Bytes
	got, err := v.hash(ctx, file, dgst.Algorithm())
	reason := ""
	switch {
	case errors.Is(err, syscall.EIO):
		reason = "the disk can't read it: " + err.Error()
	case err != nil:
		return err
	case got != dgst:
		reason = "its digest is " + got.String()
	}
	v.report.Checked++
	v.report.Bytes += v.at.Bytes - before
	if reason != "" {
		dropped, err := unlinkSame(path, info)
		if err != nil {
			return err
		}
		if dropped {
			v.report.Dropped = append(v.report.Dropped, Dropped{Digest: dgst, Size: info.Size(), Reason: reason})
		} else {
			v.report.Vanished++
		}
	}
	v.at.Checked, v.at.Dropped = v.report.Checked, len(v.report.Dropped)
	v.progress(v.at)
	return nil
}

func (v *verifier) hash(ctx context.Context, file *os.File, alg digest.Algorithm) (digest.Digest, error) {
	digester := alg.Digester()
	next := v.at.Bytes + progressStep
	for {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		n, err := file.Read(v.buf)
		digester.Hash().Write(v.buf[:n])
		v.at.Bytes += int64(n)
		if err == io.EOF {
			return digester.Digest(), nil
		}
		if err != nil {
			return "", err
		}
		if v.at.Bytes >= next {
			next += progressStep
			v.progress(v.at)
		}
	}
}

// unlinkSame removes a file if it is still the one that was looked at: a daemon may have replaced it meanwhile.
func unlinkSame(path string, looked fs.FileInfo) (bool, error) {
	now, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) || (err == nil && !os.SameFile(now, looked)) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	return true, nil
}
