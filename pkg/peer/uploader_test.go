package peer

import (
	"net/http"
	"testing"
)

// TestUploader has requests in several names: a name is no proof, and takes nobody a second share.
func TestUploader(t *testing.T) {
	for _, test := range []struct{ from, name, want string }{
		{"10.0.0.1:1000", "a", "10.0.0.1"},
		{"10.0.0.1:2000", "b", "10.0.0.1"},
		{"[::ffff:10.0.0.1]:2000", "b", "10.0.0.1"},
		{"[fd00::1]:1000", "", "fd00::1"},
		{"127.0.0.1:1000", "a", "a"},
		{"127.0.0.1:1000", "", "127.0.0.1:1000"},
		{"pipe", "", "pipe"},
	} {
		r := &http.Request{RemoteAddr: test.from, Header: http.Header{}}
		if test.name != "" {
			r.Header.Set(MemberHeader, test.name)
		}
		if got := uploader(r); string(got) != test.want {
			t.Errorf("from %s as %q: %q, want %q", test.from, test.name, got, test.want)
		}
	}
}
