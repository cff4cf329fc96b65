package cache

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
)

// oldRecord is what earlier versions wrote of a blob.
type oldRecord struct {
	Size      int64     `json:"size"`
	MediaType string    `json:"mediaType,omitempty"`
	LastUse   time.Time `json:"lastUse"`
}

// TestUpgrade opens a directory of an earlier version: what it holds stays, in the order of its last uses, and where
// somebody had changed a manifest's media type it is right again.
func TestUpgrade(t *testing.T) {
	dir := layout(t.TempDir())
	if err := dir.create(); err != nil {
		t.Fatal(err)
	}
	manifest := `{"schemaVersion":2,"config":{},"layers":[]}`
	blobs := []struct{ body, said, want string }{
		{manifest, "text/plain", ocispec.MediaTypeImageManifest},
		{"a layer", "application/x-layer", "application/x-layer"},
		{"another", "application/octet-stream", ""},
	}
	x := &index{path: dir.index()}
	if err := x.open(); err != nil {
		t.Fatal(err)
	}
	err := x.db.Update(func(tx *bolt.Tx) error {
		b, err := tx.CreateBucket([]byte("blobs/v1"))
		if err != nil {
			return err
		}
		for i, blob := range blobs {
			dgst := digest.FromString(blob.body)
			r := oldRecord{Size: int64(len(blob.body)), MediaType: blob.said, LastUse: time.Unix(int64(100-i), 0)}
			if err := put(b, dgst.String(), r, false); err != nil {
				return err
			}
			if err := os.WriteFile(dir.blob(dgst), []byte(blob.body), 0o600); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := x.close(); err != nil {
		t.Fatal(err)
	}
	for start := range 2 {
		c, err := Open(Config{Dir: string(dir), MaxBytes: 1000})
		if err != nil {
			t.Fatal(err)
		}
		for _, blob := range blobs {
			if e := c.ledger.blobs[digest.FromString(blob.body)]; e == nil || e.mediaType != blob.want || e.Owner != "" {
				t.Errorf("start %d: %q is %+v, want type %q", start, blob.body, e, blob.want)
			}
		}
		if start > 0 {
			victims, want := c.ledger.policy.Free("", 1), digest.FromString("another")
			if len(victims) != 1 || victims[0].Digest != want {
				t.Errorf("what goes first is %v, want %s", fmt.Sprint(victims), want)
			}
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
