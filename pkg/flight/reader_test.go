package flight_test

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/kioo-dev/kioo/pkg/flight"
	"github.com/opencontainers/go-digest"
)

// TestSlowReaderHoldsNobodyUp has two readers of one flight, one of which does not go on.
func TestSlowReaderHoldsNobodyUp(t *testing.T) {
	f := setup(t, nil)
	body := randomBody(4 << 20)
	src := &origin{name: "a", body: body, gate: make(chan struct{})}
	slow, err := f.Join(t.Context(), "", "", digest.FromBytes(body), flight.SizeHint{}, src)
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	in, out := io.Pipe() // Nobody reads it for now.
	done := make(chan error, 1)
	go func() {
		_, err := slow.CopyRange(t.Context(), out, 0, slow.Size())
		done <- errors.Join(err, out.Close())
	}()
	fast, err := f.Join(t.Context(), "", "", digest.FromBytes(body), flight.SizeHint{}, src)
	if err != nil {
		t.Fatal(err)
	}
	defer fast.Close()
	close(src.gate) // Now that both are aboard.
	if got, err := read(t.Context(), fast, 0, fast.Size()); err != nil || !bytes.Equal(got, body) {
		t.Fatalf("fast reader: %d bytes, %v", len(got), err)
	}
	got, err := io.ReadAll(in)
	if err != nil || !bytes.Equal(got, body) {
		t.Errorf("slow reader: %d bytes, %v", len(got), err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}
