package containerd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/opencontainers/go-digest"
)

// walkStep is how many names of a directory are read at once.
const walkStep = 1024

// algorithms gives the kinds of digests that blobs may have.
func algorithms() []digest.Algorithm { return []digest.Algorithm{digest.SHA256, digest.SHA512} }

// errNotBlob says that a file is none that a blob could be.
var errNotBlob = errors.New("not a whole blob")

// directory is the directory of containerd's content store. containerd moves a blob there when it is complete, synced
// and verified, and unlinks it when it collects it, so a file that has a blob's name is that blob.
type directory string

func (d directory) blobs() string { return filepath.Join(string(d), "blobs") }

func (d directory) algorithm(a digest.Algorithm) string { return filepath.Join(d.blobs(), a.String()) }

func (d directory) path(dgst digest.Digest) string {
	return filepath.Join(d.algorithm(dgst.Algorithm()), dgst.Encoded())
}

// stat looks at a blob's file.
func (d directory) stat(dgst digest.Digest) (fs.FileInfo, error) {
	info, err := os.Lstat(d.path(dgst))
	if err != nil {
		return nil, err
	}
	return info, checkFile(dgst, info)
}

// checkFile refuses what can't be a blob: what is no file, and the empty files that a filesystem leaves of full ones
// after a loss of power. Any other wrong content who receives it finds out, by the digest.
func checkFile(dgst digest.Digest, info fs.FileInfo) error {
	if !info.Mode().IsRegular() || info.Size() == 0 && dgst != dgst.Algorithm().FromBytes(nil) {
		return errNotBlob
	}
	return nil
}

func isGone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, errNotBlob)
}

// list calls each with every name in the directory of an algorithm, as a digest that nobody has checked. That the
// directory is not there is no error: it holds nothing then.
func (d directory) list(ctx context.Context, a digest.Algorithm, each func(digest.Digest)) error {
	dir, err := os.Open(d.algorithm(a))
	if isGone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	for {
		names, err := dir.Readdirnames(walkStep)
		for _, name := range names {
			each(digest.NewDigestFromEncoded(a, name))
		}
		if err == io.EOF || isGone(err) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

// openFile opens a blob's file. From then on it stays readable, even if it is collected.
func (s *Store) openFile(dgst digest.Digest) (content.Blob, error) {
	file, err := os.Open(s.dir.path(dgst))
	if isGone(err) {
		return nil, fmt.Errorf("containerd's %s: %w", dgst, content.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("open containerd's %s: %w", dgst, err)
	}
	info, err := file.Stat()
	if err == nil && checkFile(dgst, info) != nil {
		err = content.ErrNotFound
	}
	var mediaType string
	if err == nil {
		mediaType, err = s.mediaType(dgst, file, info.Size())
	}
	if err != nil {
		_ = file.Close() // It was only read.
		return nil, fmt.Errorf("open containerd's %s: %w", dgst, err)
	}
	return content.NewFile(file, info.Size(), mediaType, nil), nil
}

// mediaType gives the media type of a manifest, which it looks up in the file once.
func (s *Store) mediaType(dgst digest.Digest, file io.ReaderAt, size int64) (string, error) {
	s.mu.Lock()
	b := s.ledger.blobs[dgst]
	if b != nil && b.sniffed {
		defer s.mu.Unlock()
		return b.mediaType, nil
	}
	s.mu.Unlock()
	mediaType, err := sniff(file, size)
	if err != nil || b == nil {
		return mediaType, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	b.mediaType, b.sniffed = mediaType, true
	return mediaType, nil
}

// sniff gives the media type of a manifest. It is empty for everything else.
func sniff(file io.ReaderAt, size int64) (string, error) {
	if size == 0 || size > content.MaxManifestBytes {
		return "", nil
	}
	// Layers are compressed or archives, and told from JSON by their first byte.
	first := make([]byte, 1)
	if _, err := file.ReadAt(first, 0); err != nil {
		return "", fmt.Errorf("read its first byte: %w", err)
	}
	if first[0] != '{' {
		return "", nil
	}
	body := make([]byte, size)
	if n, err := file.ReadAt(body, 0); int64(n) < size {
		return "", fmt.Errorf("read what may be a manifest: %w", err)
	}
	return content.ManifestType(body), nil
}
