package httpserver

import (
	"testing"
	"time"
)

// client accepts answers of size bytes at a rate, with as many bytes at once as a write has, and tells for how long
// before it is cut off, at most an hour.
func client(size int64, perSecond float64, between time.Duration) (lasted time.Duration) {
	p := pace{patience: time.Minute}
	for lasted < time.Hour {
		for left := size; left > 0; left -= stride {
			n := min(left, stride)
			took := time.Duration(float64(n) / perSecond * float64(time.Second))
			if took > p.allow() {
				return lasted + p.allow()
			}
			lasted += took
			p.wrote(n, took)
		}
		lasted += between
	}
	return time.Hour
}

// TestPace: who accepts four mebibytes a minute on average is served for ever, and slower ones end.
func TestPace(t *testing.T) {
	const least = quantum / 60.0 // Bytes a second.
	for name, tt := range map[string]struct {
		size    int64
		rate    float64
		between time.Duration
		ends    bool
	}{
		"a fast one":                         {20 << 30, 1 << 30, 0, false},
		"a layer of 20 GB, slowly":           {20 << 30, least * 1.1, 0, false},
		"a layer of 20 GB, too slowly":       {20 << 30, least / 2, 0, true},
		"small answers, slowly":              {50 << 10, least * 1.1, 0, false},
		"small answers, a byte at a time":    {50 << 10, 1000, 0, true},
		"small answers, with pauses between": {50 << 10, 1000, time.Minute, true},
		"tiny answers on a busy machine":     {200, 200 / 0.04, 0, false},
	} {
		if lasted := client(tt.size, tt.rate, tt.between); (lasted < time.Hour) != tt.ends {
			t.Errorf("%s: lasted %v", name, lasted)
		}
	}
	if lasted := client(1, 1e-9, 0); lasted != time.Minute {
		t.Errorf("who reads nothing lasted %v", lasted)
	}
}
