package mirror_test

import (
	"context"
	"os"
	"testing"
)

// fileSpool is a spool that nobody keeps.
type fileSpool struct{ *os.File }

func newFileSpool(t *testing.T) (fileSpool, error) {
	f, err := os.CreateTemp(t.TempDir(), "spool")
	return fileSpool{f}, err
}

func (s fileSpool) Reader() (*os.File, error)            { return os.Open(s.Name()) }
func (s fileSpool) Commit(context.Context, string) error { return nil }
func (s fileSpool) Discard() error                       { return s.Close() }
