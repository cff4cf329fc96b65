package upstream

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"syscall"
	"testing"
	"time"
)

// unreachable gives an address at which connections are neither made nor refused, as behind a firewall that drops
// packets: a listener that accepts nothing, whose backlog is full.
func unreachable(t *testing.T) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", name.(*syscall.SockaddrInet4).Port)
	for range 10 {
		conn, err := net.DialTimeout("tcp", address, 200*time.Millisecond)
		if os.IsTimeout(err) {
			return address
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
	}
	t.Fatal("the backlog does not fill")
	return ""
}

// silent gives the address of a server that accepts connections and says nothing.
func silent(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") // The kernel accepts.
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l.Addr().String()
}

// TestConnectTimeout has the first endpoint hang where connections are made, and a wait for first bytes that is far too
// long to be what ends it.
func TestConnectTimeout(t *testing.T) {
	for name, url := range map[string]string{
		"dialling":      "http://" + unreachable(t),
		"TLS handshake": "https://" + silent(t),
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, func(w http.ResponseWriter, _ *http.Request, _ int) { _, _ = w.Write([]byte(indexBody)) })
			cfg := fast(Endpoint{URL: url}, Endpoint{URL: s.URL})
			cfg.Timeouts = Timeouts{Connect: 300 * time.Millisecond, FirstByte: time.Minute, Progress: time.Minute}
			began := time.Now()
			_, err := client(t, cfg).Manifest(t.Context(), tagged, Origin{})
			if took := time.Since(began); err != nil || took < 300*time.Millisecond || took > 10*time.Second {
				t.Errorf("after %v: %v", took, err)
			}
			if n := len(s.seen()); n != 1 {
				t.Errorf("the next endpoint was asked %d times", n)
			}
		})
	}
}
