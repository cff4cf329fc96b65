package registrytest

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/crypto/bcrypt"
)

// configure writes the registry's configuration and what it refers to, and returns its file. The format is YAML, of
// which JSON is a part.
func (r *Registry) configure() (string, error) {
	cfg := map[string]any{
		"version": "0.1",
		"log":     map[string]any{"level": "info", "accesslog": map[string]any{"disabled": true}},
		"storage": map[string]any{
			"filesystem": map[string]any{"rootdirectory": r.Storage()},
			"delete":     map[string]any{"enabled": true},
			"cache":      map[string]any{"blobdescriptor": "inmemory"},
		},
		// Manifests may have layers that are elsewhere, which it otherwise refuses.
		"validation": map[string]any{"manifests": map[string]any{"urls": map[string]any{"allow": []string{"^https?://"}}}},
		// The kernel chooses the port: no other test can take it between our choice and the registry's start.
		"http": map[string]any{"addr": "127.0.0.1:0", "secret": "any, for it runs alone"},
	}
	var err error
	switch r.cfg.Auth {
	case AuthToken:
		cfg["auth"], err = r.tokens.configure(r.dir)
	case AuthBasic:
		cfg["auth"], err = r.htpasswd()
	}
	if err != nil {
		return "", err
	}
	return writeJSON(r.dir, "config.yml", cfg)
}

func (r *Registry) htpasswd() (map[string]any, error) {
	passwords := map[string]string{r.cfg.Username: r.cfg.Password}
	for name, user := range r.cfg.Users {
		passwords[name] = user.Password
	}
	var lines []byte
	for name, password := range passwords {
		hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
		if err != nil {
			return nil, fmt.Errorf("hash password: %w", err)
		}
		lines = fmt.Appendf(lines, "%s:%s\n", name, hash)
	}
	file := filepath.Join(r.dir, "htpasswd")
	if err := os.WriteFile(file, lines, 0o600); err != nil {
		return nil, err
	}
	return map[string]any{"htpasswd": map[string]any{"realm": "registrytest", "path": file}}, nil
}

func writeDockerConfig(dir, host, username, password string) (string, error) {
	auth := base64.StdEncoding.EncodeToString([]byte(username + ":" + password))
	return writeJSON(dir, "config.json", map[string]any{"auths": map[string]any{host: map[string]any{"auth": auth}}})
}

func writeJSON(dir, name string, v any) (string, error) {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return "", err
	}
	file := filepath.Join(dir, name)
	return file, os.WriteFile(file, data, 0o600)
}
