package reference

import "testing"

func TestBaseURL(t *testing.T) {
	for host, want := range map[string]string{
		"docker.io": "https://registry-1.docker.io", "quay.io": "https://quay.io", "registry.test:5443": "https://registry.test:5443",
		"localhost": "http://localhost", "localhost:5000": "http://localhost:5000", "127.1.2.3:5000": "http://127.1.2.3:5000",
		"[::1]": "http://[::1]", "[::1]:5000": "http://[::1]:5000", "10.0.0.1:5000": "https://10.0.0.1:5000",
		"localhost.example.com": "https://localhost.example.com",
	} {
		if got := BaseURL(host); got != want {
			t.Errorf("%s: got %s", host, got)
		}
	}
}
