package peer

import (
	"net/http"
	"strconv"
	"time"
)

// Members tell each other how long ago a registry said something, and not when, because their clocks differ. Such an
// age must not get smaller on its way: a word that travels in circles would never grow old. So who tells it rounds up,
// and who hears it counts from when it asked, which was before the other looked at its clock.

// AgeHeader is how many milliseconds ago a registry said what a tag means.
const AgeHeader = "Kioo-Age-Ms"

// MaxAge is the greatest age that can be told. What is older is told as this, and believed by nobody.
const MaxAge = 100 * 365 * 24 * time.Hour

// EncodeAge gives the age of something that was said at a time, in milliseconds.
func EncodeAge(now, said time.Time) int64 {
	age := min(max(now.Sub(said), 0), MaxAge)
	return int64((age + time.Millisecond - 1) / time.Millisecond)
}

// DecodeAge gives when something was said of which a member told the age, in answer to a question of that time. It is
// never later than it was.
func DecodeAge(ms int64, asked time.Time) (time.Time, error) {
	if ms < 0 || ms > int64(MaxAge/time.Millisecond) {
		return time.Time{}, Violate(BadAge, "an age of %d ms", ms)
	}
	return asked.Add(-time.Duration(ms) * time.Millisecond), nil
}

// SetAge writes an age into an answer.
func SetAge(h http.Header, age time.Duration) {
	var now time.Time
	h.Set(AgeHeader, strconv.FormatInt(EncodeAge(now, now.Add(-max(age, 0))), 10))
}

// saidAt reads the age in an answer. Members of earlier versions tell whole seconds, and round down.
func saidAt(h http.Header, asked time.Time) (time.Time, error) {
	scale, text := int64(1), h.Get(AgeHeader)
	if text == "" {
		scale, text = 1000, h.Get("Age")
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 || n > int64(MaxAge/time.Millisecond) {
		return time.Time{}, Violate(BadAge, "an age of %.40q", text)
	}
	if scale > 1 {
		n = min((n+1)*scale, int64(MaxAge/time.Millisecond))
	}
	return DecodeAge(n, asked)
}
