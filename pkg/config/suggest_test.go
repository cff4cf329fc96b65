package config

import "testing"

func TestDistance(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want int
	}{
		{"", "", 0},
		{"cache", "", 5},
		{"cache", "cache", 0},
		{"cahce", "cache", 1}, // swapped
		{"cach", "cache", 1},  // missing
		{"caache", "cache", 1},
		{"cadhe", "cache", 1},
		{"acceh", "cache", 2},
		{"ca", "abc", 3}, // What was swapped is not torn apart again.
		{"kitten", "sitting", 3},
		{"öl", "lö", 1}, // Characters, not bytes.
	} {
		if got := distance(test.a, test.b); got != test.want {
			t.Errorf("distance(%q, %q) is %d, want %d", test.a, test.b, got, test.want)
		}
		if there, back := distance(test.a, test.b), distance(test.b, test.a); there != back {
			t.Errorf("from %q to %q it is %d, and %d back", test.a, test.b, there, back)
		}
	}
}
