package registry_test

import (
	"bytes"
	"net/http"
	"testing"
	"time"

	"github.com/kioo-dev/kioo/pkg/access"
	"github.com/opencontainers/go-digest"
)

// TestOpenForATime: while upstream can't be asked, what is private is given to everybody, for as long as that is
// configured, and to nobody whom upstream refused. Longer, and in other modes, nobody gets it.
func TestOpenForATime(t *testing.T) {
	for name, test := range map[string]struct {
		mode       access.Mode
		offlineFor time.Duration
		within     int // What a client gets that nobody knows, in the first minutes.
	}{
		"closed":           {access.Auto, 0, 404},
		"for ten minutes":  {access.Auto, 10 * time.Minute, 200},
		"relay":            {access.Relay, 10 * time.Minute, 200},
		"verify":           {access.Verify, 10 * time.Minute, 200},
		"verify, and shut": {access.Verify, 0, 404},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStack(t, options{impatient: true, mode: test.mode, offlineFor: test.offlineFor})
			secret := pattern(2000)
			s.remote.putImage("org/app", "v1", secret)
			newGuard(s, map[string]string{"Bearer alice": "org/app"})
			blob := blobPath("org/app", digest.FromBytes(secret))
			s.get(t, blob).expectChallenge(t)
			s.get(t, blob, "Authorization", "Bearer alice").expect(t, 200)
			s.heldSoon(t, digest.FromBytes(secret))
			s.remote.set(func(w http.ResponseWriter, _ *http.Request) bool {
				w.WriteHeader(http.StatusServiceUnavailable)
				return true
			})
			for _, path := range []string{blob, blob} { // The first question finds out.
				got := s.get(t, path, "Authorization", "Bearer bob").expect(t, test.within)
				if test.within == 200 && !bytes.Equal(got.body, secret) {
					t.Errorf("%d bytes", len(got.body))
				}
			}
			// Whoever comes without credentials could get none now: who gives them out is as likely down.
			if nobody := s.get(t, blob); nobody.status != map[bool]int{true: 200, false: 401}[test.within == 200] {
				t.Errorf("without credentials: %d %s", nobody.status, nobody.body)
			}
			s.later(11 * time.Minute)
			s.get(t, blob, "Authorization", "Bearer bob").expectError(t, 404, "BLOB_UNKNOWN")
			s.later(time.Minute)
			newGuard(s, map[string]string{"Bearer alice": "org/app"})
			s.get(t, blob).expectChallenge(t)
			s.get(t, blob, "Authorization", "Bearer bob").expectChallenge(t)
			s.get(t, blob, "Authorization", "Bearer alice").expect(t, 200)
		})
	}
}
