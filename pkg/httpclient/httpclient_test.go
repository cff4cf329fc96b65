package httpclient_test

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/kioo-dev/kioo/pkg/httpclient"
)

// TestTLS asks a server with and without the file of its authority.
func TestTLS(t *testing.T) {
	server := httptest.NewTLSServer(http.NotFoundHandler())
	defer server.Close()
	dir := t.TempDir()
	file := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := file("good.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	empty, missing := file("empty.pem", []byte("# none yet\n")), filepath.Join(dir, "missing.pem")

	ask := func(caFile string) error {
		t.Helper()
		cfg, err := httpclient.TLS(caFile)
		if err != nil {
			t.Fatal(err)
		}
		tr := &http.Transport{TLSClientConfig: cfg, DisableKeepAlives: true}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := tr.RoundTrip(req)
		if err != nil {
			return err
		}
		return resp.Body.Close()
	}
	if err := ask(good); err != nil {
		t.Errorf("with its authority: %v", err)
	}
	var unknown x509.UnknownAuthorityError
	if err := ask(""); !errors.As(err, &unknown) {
		t.Errorf("without a file: %v", err)
	}
	if _, err := httpclient.TLS(missing); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of a file that is not there: %v", err)
	}
	if _, err := httpclient.TLS(empty); err == nil || err.Error() != empty+" holds no PEM certificate" {
		t.Errorf("of a file without certificates: %v", err)
	}
}

// TestTLSAdds keeps the authorities of the system beside a file's.
func TestTLSAdds(t *testing.T) {
	server := httptest.NewTLSServer(nil)
	server.Close()
	path := filepath.Join(t.TempDir(), "ca.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := httpclient.TLS(path)
	if err != nil {
		t.Fatal(err)
	}
	want, err := x509.SystemCertPool()
	if err != nil {
		t.Skip("this machine has no authorities: ", err)
	}
	want.AddCert(server.Certificate())
	if !cfg.RootCAs.Equal(want) {
		t.Error("the pool is not the system's and the file's")
	}
}
