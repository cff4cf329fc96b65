package tracker

import (
	"bytes"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	"github.com/kioo-dev/kioo/pkg/discovery"
	"github.com/kioo-dev/kioo/pkg/peer"
	"github.com/kioo-dev/kioo/pkg/swarm"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// violations gives what notes them, and what it has counted and logged.
func violations() (v *peer.Violations, counted func() int, logged *[]string) {
	reg := prometheus.NewRegistry()
	logged = &[]string{}
	v = peer.NewViolations(funcr.New(func(_, args string) { *logged = append(*logged, args) }, funcr.Options{}), reg)
	return v, func() (n int) {
		families, _ := reg.Gather()
		for _, m := range families[0].GetMetric() {
			n += int(m.GetCounter().GetValue())
		}
		return n
	}, logged
}

// TestTrackerThatLies has the closest member give a lease outside of the blob: the next one coordinates, and the
// liar is not asked again for longer than one that is only silent.
func TestTrackerThatLies(t *testing.T) {
	liar := newHost(t, "liar", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(answered(func(r *wireResponse) { r.Size, r.Leases = 10, wireLeases{{Start: 5, End: math.MaxInt64}} }))
	})
	honest := newHost(t, "good", nil)
	dir := &directory{nearest: []discovery.Member{liar.Member, honest.Member}}
	c := newClient(t, dir)
	v, counted, logged := violations()
	c.cfg.Violations = v
	for range 2 {
		if a, _, err := asks(t, c); err != nil || a.By != ID(honest.ID) {
			t.Fatalf("%+v, %v", a, err)
		}
	}
	later := time.Now().Add(2 * silentFor)
	c.cfg.Now = func() time.Time { return later }
	if a, _, err := asks(t, c); err != nil || a.By != ID(honest.ID) || liar.asked.Load() != 1 {
		t.Errorf("%+v, %v; the liar was asked %d times", a, err, liar.asked.Load())
	}
	if n := counted(); n != 1 || len(*logged) != 1 || !strings.Contains((*logged)[0], liar.ID.String()) || !strings.Contains((*logged)[0], dgst) {
		t.Errorf("%d are counted, %q is logged", n, *logged)
	}
}

// TestAnnouncesThatLie has a member announce what can't be, in the name of another one: nobody is the worse for it.
func TestAnnouncesThatLie(t *testing.T) {
	v, counted, logged := violations()
	s, err := NewService(ServiceConfig{Directory: &directory{}, Now: time.Now, Violations: v, Log: logr.Discard()})
	if err != nil {
		t.Fatal(err)
	}
	post := func(body []byte) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		s.ServeHTTP(w, httptest.NewRequest(http.MethodPost, Path, bytes.NewReader(body)))
		return w
	}
	honest := announced(func(*wireRequest) {})
	before := post(honest)
	for _, lie := range []func(w *wireRequest){
		func(w *wireRequest) { w.Size = math.MaxInt64 },
		func(w *wireRequest) { w.Fetched = math.MaxInt64 },
		func(w *wireRequest) { w.Reading = wireLeases{{Start: 0, End: math.MaxInt64}} },
		func(w *wireRequest) { w.Have = bytes.Repeat([]byte{255}, 1<<13) },
	} {
		if w := post(announced(lie)); w.Code != http.StatusBadRequest {
			t.Errorf("answered with %d: %s", w.Code, w.Body)
		}
	}
	// Who believes in another size is none of its business.
	if w := post(announced(func(w *wireRequest) { w.From, w.Size = encodeMember(member("x")), 60<<20 })); w.Code != http.StatusOK {
		t.Errorf("answered with %d: %s", w.Code, w.Body)
	}
	after := post(honest)
	want, _, _ := decodeAnswer(before.Body.Bytes(), now)
	got, _, err := decodeAnswer(after.Body.Bytes(), now)
	if err != nil || len(got.Leases) != 1 || got.Leases[0] != want.Leases[0] || got.NoSource || len(got.Neighbours) != 0 {
		t.Errorf("before %+v, after %+v, %v", want, got, err)
	}
	if n := counted(); n != 4 || len(*logged) == 0 || !strings.Contains((*logged)[0], dgst) {
		t.Errorf("%d are counted, %q is logged", n, *logged)
	}
	if n := testutil.ToFloat64(s.metrics.announces.WithLabelValues("malformed")); n != 4 {
		t.Errorf("%v are malformed", n)
	}
}

// TestSizesAreToldApart has members ask the service who believe in different sizes, and one who knows none.
func TestSizesAreToldApart(t *testing.T) {
	s := newService(t, &directory{})
	ask := func(name string, size int64) *Answer {
		t.Helper()
		q := &question{key: dgst, from: member(name), announce: swarm.Announce{Member: ID(member(name).ID), Size: size}}
		a, err := s.answer(t.Context(), q, nil)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	ask("bad", 60<<20)
	if a := ask("a", 100<<20); a.NoSource || len(a.Leases) == 0 {
		t.Errorf("who knows the size is answered %+v", a)
	}
	if a := ask("b", 100<<20); len(a.Neighbours) != 1 {
		t.Errorf("the second who knows it is answered %+v", a)
	}
	if a := ask("c", -1); a.Size != 100<<20 {
		t.Errorf("who does not know it is told %d", a.Size)
	}
	for _, size := range []int64{10, 20} { // Of one piece, all is one.
		if a := ask("s", size); a.NoSource || a.Size != size {
			t.Errorf("of %d bytes, the answer is %+v", size, a)
		}
	}
}
