package cache

import "testing"

func FuzzRecords(f *testing.F) {
	f.Add([]byte("sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"), []byte(`0000{"size":1}`))
	f.Fuzz(func(t *testing.T, key, sealed []byte) {
		if dgst, r, err := decodeBlob(key, sealed); err == nil && (dgst.Validate() != nil || r.Size < 0) {
			t.Errorf("record %q is taken as %s, %+v", sealed, dgst, r)
		}
		if tag, err := decodeTag(key, sealed); err == nil && tag.Target.Digest.Validate() != nil {
			t.Errorf("record %q is taken as %+v", sealed, tag)
		}
	})
}
