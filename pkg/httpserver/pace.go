package httpserver

import "time"

const (
	// quantum is what a client must accept within the patience, on average. A slower one would hold what serves it for
	// hours, and gets the same bytes sooner if it comes back.
	quantum = 4 << 20
	// stride is how many bytes go to the kernel at once: as often, a client that reads gets more time.
	stride = 1 << 20
	// hiccup is how long a write may take for other reasons than the client's: a busy machine, a processor quota.
	hiccup = 50 * time.Millisecond
	// behind is what counts as a client that does not read, where another one needs its place. Runtimes that write to a
	// slow disk pause for less.
	behind = time.Second
)

// pace says how long a client may take to accept what is written to it. It counts the time that writes wait, and takes
// off what the accepted bytes are worth: who reads can go on for ever, and who does not is cut off once the patience
// is used up, whether in one large answer or in many small ones. What happens between writes costs nothing.
type pace struct {
	patience time.Duration
	owed     time.Duration
}

// allow gives how long the next write may wait.
func (p *pace) allow() time.Duration { return p.patience - p.owed }

// wrote counts a write that took so long for n bytes.
func (p *pace) wrote(n int64, took time.Duration) {
	if took < hiccup {
		took = 0
	}
	worth := time.Duration(float64(p.patience) / quantum * float64(n))
	p.owed = max(0, p.owed+took-worth)
}
