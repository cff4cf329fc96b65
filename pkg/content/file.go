package content

import (
	"context"
	"fmt"
	"io"
	"os"
)

// copyStep is how many bytes CopyRange hands to the kernel at once: between two steps it looks whether its context
// has ended, and whoever wraps the writer can move a deadline.
const copyStep = 4 << 20

// File is a blob that is a file. Its CopyRange ends in sendfile(2) when w is a *net.TCPConn or forwards
// io.ReaderFrom to one, as net/http's ResponseWriter does.
type File struct {
	file      *os.File
	size      int64
	mediaType string
	closed    func()
}

// NewFile makes a blob of an open file of that size. The blob owns the file. closed, if not nil, is called once,
// after the file was closed.
func NewFile(file *os.File, size int64, mediaType string, closed func()) *File {
	return &File{file: file, size: size, mediaType: mediaType, closed: closed}
}

// Size implements Blob.
func (f *File) Size() int64 { return f.size }

// MediaType implements Blob.
func (f *File) MediaType() string { return f.mediaType }

// CopyRange implements Blob.
func (f *File) CopyRange(ctx context.Context, w io.Writer, off, n int64) (int64, error) {
	if err := CheckRange(f.size, off, n); err != nil {
		return 0, err
	}
	return CopyFile(ctx, w, f.file, off, n)
}

// CopyFile writes the n bytes of file from off on to w. It uses and moves the file's own offset, because sendfile
// by way of io.ReaderFrom has no other; so a file has one reader.
func CopyFile(ctx context.Context, w io.Writer, file *os.File, off, n int64) (int64, error) {
	if _, err := file.Seek(off, io.SeekStart); err != nil {
		return 0, fmt.Errorf("seek to byte %d: %w", off, err)
	}
	var written int64
	for written < n {
		if err := ctx.Err(); err != nil {
			return written, err
		}
		m, err := io.CopyN(w, file, min(copyStep, n-written))
		written += m
		if err == io.EOF {
			err = io.ErrUnexpectedEOF // The file is shorter than the blob: somebody truncated it.
		}
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

// Close implements io.Closer. Closing twice does nothing more.
func (f *File) Close() error {
	if f.file == nil {
		return nil
	}
	err := f.file.Close()
	f.file = nil
	if f.closed != nil {
		f.closed()
	}
	return err
}
