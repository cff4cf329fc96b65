package flight_test

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/kioo-dev/kioo/pkg/flight"
	"github.com/opencontainers/go-digest"
)

func TestThrough(t *testing.T) {
	for _, size := range []int{0, 1, 32 << 10, 32<<10 + 1, 1 << 20} {
		body := randomBody(size)
		p, err := flight.Through(t.Context(), digest.FromBytes(body), &origin{name: "a", body: body})
		if err != nil {
			t.Fatal(err)
		}
		var got bytes.Buffer
		if n, err := p.CopyRange(t.Context(), &got, 0, p.Size()); err != nil || n != p.Size() || !bytes.Equal(got.Bytes(), body) {
			t.Errorf("%d bytes: got %d, %v", size, n, err)
		}
		p.Close()
		if size == 0 {
			continue
		}
		for _, n := range []int{1, size / 2, size - 1} {
			p, err := flight.Through(t.Context(), digest.FromBytes(body), &origin{name: "a", body: body})
			if err != nil {
				t.Fatal(err)
			}
			var got bytes.Buffer
			if m, err := p.CopyRange(t.Context(), &got, 0, int64(n)); err != nil || m != int64(n) || !bytes.Equal(got.Bytes(), body[:n]) {
				t.Errorf("first %d of %d bytes: got %d (%d), %v", n, size, got.Len(), m, err)
			}
			p.Close()
		}
		wrong := bytes.Clone(body)
		wrong[0] ^= 1
		p, err = flight.Through(t.Context(), digest.FromBytes(body), &origin{name: "a", body: wrong})
		if err != nil {
			t.Fatal(err)
		}
		if n, err := p.CopyRange(t.Context(), io.Discard, 0, p.Size()); !errors.Is(err, flight.ErrMismatch) || n >= int64(size) {
			t.Errorf("wrong bytes: gave out %d of %d, %v", n, size, err)
		}
		p.Close()
	}
}
