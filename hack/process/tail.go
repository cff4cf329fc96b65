package process

import "sync"

const defaultKeepLog = 256 << 10

// tail keeps the last bytes that are written to it. It is safe for concurrent use.
type tail struct {
	mu      sync.Mutex
	buf     []byte
	most    int
	dropped bool
}

func newTail(most int) *tail {
	if most <= 0 {
		most = defaultKeepLog
	}
	return &tail{most: most}
}

// Write implements io.Writer and never fails.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	// Twice the bound before anything moves: each byte is copied once at most, on the average.
	if len(t.buf) > 2*t.most {
		t.buf = append(t.buf[:0], t.buf[len(t.buf)-t.most:]...)
		t.dropped = true
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	buf, dropped := t.buf, t.dropped
	if len(buf) > t.most {
		buf, dropped = buf[len(buf)-t.most:], true
	}
	if dropped {
		return "[…]" + string(buf)
	}
	return string(buf)
}
