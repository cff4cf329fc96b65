package upstream

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/kioo-dev/kioo/pkg/reference"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"
)

const (
	// maxCredentials bounds a file of credentials. Kubernetes bounds a Secret at 1 MiB.
	maxCredentials = 4 << 20
	// tokenUser is the user name under which credential helpers give identity tokens.
	tokenUser = "<token>"
)

// credentialFiles are the names that a directory of credentials is searched for: the key of a Secret of the type
// kubernetes.io/dockerconfigjson, that of docker login, and that of a Secret of the older type kubernetes.io/dockercfg.
var credentialFiles = [...]string{".dockerconfigjson", "config.json", ".dockercfg"}

// credentialStore looks credentials up in a Docker config.json or a mounted Secret. It is stateless: the file is read
// for every look-up, and look-ups are as rare as challenges. So a Secret that changed needs no restart.
type credentialStore struct{ path string }

// authFile is what there is of credentials in a config.json.
type authFile struct {
	Auths       map[string]authEntry `json:"auths"`
	CredHelpers map[string]string    `json:"credHelpers"`
	CredsStore  string               `json:"credsStore"`
}

type authEntry struct {
	Username      string `json:"username"`
	Password      string `json:"password"`
	Auth          string `json:"auth"`
	IdentityToken string `json:"identitytoken"`
}

func (s credentialStore) check() error {
	if s.path == "" {
		return nil
	}
	_, err := s.read()
	return err
}

// file finds the file if the path is a directory.
func (s credentialStore) file() (string, error) {
	info, err := os.Stat(s.path)
	if err != nil || !info.IsDir() {
		return s.path, err
	}
	for _, name := range credentialFiles {
		file := filepath.Join(s.path, name)
		if _, err := os.Stat(file); err == nil {
			return file, nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
	}
	return "", fmt.Errorf("%s has none of %s", s.path, strings.Join(credentialFiles[:], ", "))
}

func (s credentialStore) read() (authFile, error) {
	name, err := s.file()
	if err != nil {
		return authFile{}, fmt.Errorf("read credentials: %w", err)
	}
	file, err := os.Open(name)
	if err != nil {
		return authFile{}, fmt.Errorf("read credentials: %w", err)
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxCredentials))
	if err != nil {
		return authFile{}, fmt.Errorf("read credentials: %w", err)
	}
	var cfg authFile
	if filepath.Base(name) == ".dockercfg" {
		err = json.Unmarshal(data, &cfg.Auths)
	} else if len(bytes.TrimSpace(data)) > 0 {
		err = json.Unmarshal(data, &cfg)
	}
	if err != nil {
		// Not err itself, which can quote what it stumbled over.
		return authFile{}, fmt.Errorf("read credentials: %s is not the JSON that docker login writes", name)
	}
	return cfg, nil
}

// get gives user name and secret for a repository at a host with an optional port. An empty user name with a secret
// means an identity token, and both empty that there are none.
func (s credentialStore) get(ctx context.Context, host, repository string) (user, secret string, err error) {
	if s.path == "" {
		return "", "", nil
	}
	cfg, err := s.read()
	if err != nil {
		return "", "", err
	}
	names := namesOf(host)
	if key := mostSpecific(cfg.CredHelpers, names, repository); key != "" {
		return s.help(ctx, cfg.CredHelpers[key], key, names)
	}
	if key := mostSpecific(cfg.Auths, names, repository); key != "" {
		user, secret, err := cfg.Auths[key].read()
		if err != nil {
			return "", "", fmt.Errorf("read credentials for %s: %w", host, err)
		}
		if secret != "" {
			return user, secret, nil
		}
	}
	if cfg.CredsStore != "" {
		return s.help(ctx, cfg.CredsStore, "", names)
	}
	return "", "", nil
}

// help asks a helper program, docker-credential-<helper>, for the credentials of the first name that it knows.
func (s credentialStore) help(ctx context.Context, helper, key string, names []string) (user, secret string, err error) {
	asked := names
	if slices.Contains(names, reference.DockerHub) {
		asked = append([]string{"https://index.docker.io/v1/"}, names...) // The whole of what docker login writes.
	} else if key != "" && !strings.ContainsAny(key, "*?[") {
		asked = append([]string{key}, names...)
	}
	store := credentials.NewNativeStore(helper)
	for _, name := range asked {
		cred, err := store.Get(ctx, name)
		switch {
		case err != nil:
			return "", "", fmt.Errorf("ask credential helper %q for %s: %w", helper, name, redact(err))
		case cred == auth.EmptyCredential:
		case cred.RefreshToken != "":
			return "", cred.RefreshToken, nil
		default:
			return cred.Username, cred.Password, nil
		}
	}
	return "", "", nil
}

// namesOf gives the names that credentials for a host may be under: all that its registry goes by, and the host as it
// stands in the endpoint's URL, for programs that look up what they were once told.
func namesOf(host string) []string {
	registry, err := reference.ParseRegistry(host)
	if err != nil {
		return []string{host}
	}
	names := reference.NamesOf(registry)
	if !slices.Contains(names, host) {
		names = append(names, host)
	}
	return names
}

var errAuth = errors.New(`"auth" is not the base64 of a user name, a colon and a password`)

// read gives user name and secret of an entry, as docker login or kubectl create secret wrote it.
func (a authEntry) read() (user, secret string, err error) {
	if a.IdentityToken != "" {
		return "", a.IdentityToken, nil
	}
	user, secret = a.Username, a.Password
	if a.Auth != "" {
		plain, err := base64.StdEncoding.DecodeString(a.Auth)
		if err != nil {
			return "", "", errAuth
		}
		var ok bool
		if user, secret, ok = strings.Cut(strings.TrimRight(string(plain), "\x00"), ":"); !ok {
			return "", "", errAuth
		}
	}
	if user == tokenUser {
		user = ""
	}
	return user, secret, nil
}

// mostSpecific finds the key for a repository as kubelet does: keys are hosts, in which each label may be a pattern,
// with a path that the repository begins with. The longest path wins, and of these a host without a pattern.
func mostSpecific[V any](keys map[string]V, hosts []string, repository string) string {
	best, bestScore := "", -1
	for key := range keys {
		host, prefix := splitKey(key)
		if prefix != "" && repository != prefix && !strings.HasPrefix(repository, prefix+"/") {
			continue
		}
		for i, name := range hosts {
			if !matchHost(host, name) {
				continue
			}
			score := len(prefix)*100 + len(hosts) - i
			if host == name {
				score += 50
			}
			if score > bestScore || score == bestScore && key < best {
				best, bestScore = key, score
			}
		}
	}
	return best
}

// splitKey reads a key: "quay.io", "https://index.docker.io/v1/", "*.azurecr.io/team".
func splitKey(key string) (host, prefix string) {
	if _, rest, ok := strings.Cut(key, "://"); ok {
		key = rest
	}
	host, prefix, _ = strings.Cut(key, "/")
	prefix = strings.Trim(prefix, "/")
	if prefix == "v1" || prefix == "v2" {
		prefix = ""
	}
	host = strings.TrimSuffix(strings.ToLower(host), ":443") // Also of patterns, which are no names.
	name, err := reference.ParseRegistry(host)
	if err != nil || name == reference.DockerHub { // Its names may have different credentials.
		return host, prefix
	}
	return name, prefix
}

func matchHost(pattern, host string) bool {
	if !strings.ContainsAny(pattern, "*?[") {
		return pattern == host
	}
	patterns, labels := strings.Split(pattern, "."), strings.Split(host, ".")
	if len(patterns) != len(labels) {
		return false
	}
	for i := range patterns {
		if ok, err := path.Match(patterns[i], labels[i]); err != nil || !ok {
			return false
		}
	}
	return true
}
