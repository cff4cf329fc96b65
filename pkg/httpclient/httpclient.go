// Package httpclient has what this node's HTTP clients have in common: whose certificates they believe, bodies that
// don't stand still, and ranges. What is asked of whom, and what an answer means, is for others to say.
package httpclient

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
)

// TLS gives the configuration of connections to servers that the system's authorities vouch for, or those of a file in
// PEM, if one is named.
func TLS(caFile string) (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if caFile == "" {
		return cfg, nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, err
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no PEM certificate", caFile)
	}
	cfg.RootCAs = pool
	return cfg, nil
}
