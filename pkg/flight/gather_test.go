package flight

import (
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"
)

// paced gives a record with each read, after the time that is next.
type paced struct {
	after  []time.Duration
	record int
	err    error // At the end.
}

func (p *paced) Read(b []byte) (int, error) {
	if len(p.after) == 0 {
		return 0, p.err
	}
	time.Sleep(p.after[0])
	p.after = p.after[1:]
	return min(p.record, len(b)), nil
}

func TestGather(t *testing.T) {
	broken := errors.New("broken")
	for _, tt := range []struct {
		name  string
		paced paced
		room  int
		want  int
		err   error
	}{
		{"slower than it is dealt with", paced{[]time.Duration{time.Millisecond, 0}, 10, nil}, 100, 10, nil},
		{"faster, and then slower", paced{[]time.Duration{0, 0, time.Millisecond, 0}, 10, nil}, 100, 30, nil},
		{"faster until the buffer is full", paced{[]time.Duration{0, 0, 0, 0, 0}, 30, nil}, 100, 100, nil},
		{"faster until it is enough", paced{[]time.Duration{0, 0, 0, 0, 0}, 40 << 10, nil}, 1 << 20, 80 << 10, nil},
		{"the end", paced{[]time.Duration{0, 0}, 10, io.EOF}, 100, 20, io.EOF},
		{"an error", paced{[]time.Duration{0}, 10, broken}, 100, 10, broken},
		{"nothing", paced{nil, 10, nil}, 100, 0, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n, err := gather(&tt.paced, make([]byte, tt.room))
				if n != tt.want || !errors.Is(err, tt.err) {
					t.Errorf("%d bytes and %v, want %d and %v", n, err, tt.want, tt.err)
				}
			})
		})
	}
}
