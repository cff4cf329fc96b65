package upstream

import (
	"context"
	"fmt"
	"os"

	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"
)

// hubKeys are the names that Docker Hub's credentials go by in configuration files; docker login writes the first.
var hubKeys = [...]string{"https://index.docker.io/v1/", "docker.io", "registry-1.docker.io", "index.docker.io"}

// credentialStore looks credentials up in a Docker config.json. It is stateless: the file is read for every look-up,
// and look-ups are as rare as challenges.
type credentialStore struct{ path string }

func (s credentialStore) check() error {
	if s.path == "" {
		return nil
	}
	if _, err := os.Stat(s.path); err != nil { // The library takes a missing file for an empty one.
		return fmt.Errorf("read credentials: %w", err)
	}
	_, err := s.open()
	return err
}

func (s credentialStore) open() (*credentials.DynamicStore, error) {
	store, err := credentials.NewStore(s.path, credentials.StoreOptions{})
	if err != nil {
		return nil, fmt.Errorf("read credentials %s: %w", s.path, err)
	}
	return store, nil
}

// get gives user name and secret for a host with an optional port. An empty user name with a secret means an identity
// token, and both empty that there are none.
func (s credentialStore) get(ctx context.Context, host string) (user, secret string, err error) {
	if s.path == "" {
		return "", "", nil
	}
	store, err := s.open()
	if err != nil {
		return "", "", err
	}
	keys := []string{host}
	if host == "registry-1.docker.io" {
		keys = hubKeys[:]
	}
	for _, key := range keys {
		cred, err := store.Get(ctx, key)
		if err != nil {
			return "", "", fmt.Errorf("look up credentials for %s: %w", host, err)
		}
		if cred == auth.EmptyCredential {
			continue
		}
		if cred.RefreshToken != "" {
			return "", cred.RefreshToken, nil
		}
		return cred.Username, cred.Password, nil
	}
	return "", "", nil
}
