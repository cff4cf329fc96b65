package upstream

import (
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// helper puts a credential helper on the PATH that knows one host, and notes how often it was asked.
func helper(t *testing.T, name, host string) {
	t.Helper()
	dir := t.TempDir()
	script := fmt.Sprintf("#!/bin/sh\n[ \"$(cat)\" = %s ] && echo '{\"Username\":\"ann\",\"Secret\":\"s3cret\"}' && exit\n"+
		"echo 'credentials not found in native keychain' && exit 1\n", host)
	if err := os.WriteFile(filepath.Join(dir, "docker-credential-"+name), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

func TestCredentialHelpers(t *testing.T) {
	for _, test := range []struct{ name, config, helps, host, want string }{
		{"by host", `{"credHelpers":{"registry.example":"test"}}`, "registry.example", "registry.example", "ann"},
		{"by pattern", `{"credHelpers":{"*.dkr.ecr.*.amazonaws.com":"test"}}`, "1.dkr.ecr.eu-west-1.amazonaws.com", "1.dkr.ecr.eu-west-1.amazonaws.com", "ann"},
		{"for another host", `{"credHelpers":{"registry.example":"test"}}`, "registry.example", "quay.io", ""},
		{"for all", `{"auths":{"quay.io":{}},"credsStore":"test"}`, "quay.io", "quay.io", "ann"},
		{"after a file's own", `{"auths":{"quay.io":{"auth":"Ym9iOnB3"}},"credsStore":"test"}`, "quay.io", "quay.io", "bob"},
		{"for Docker Hub", `{"credsStore":"test"}`, "https://index.docker.io/v1/", "registry-1.docker.io", "ann"},
	} {
		t.Run(test.name, func(t *testing.T) {
			helper(t, "test", test.helps)
			store := credentialStore{path: writeFile(t, "config.json", test.config)}
			user, _, err := store.get(t.Context(), test.host, "team/app")
			if user != test.want || err != nil {
				t.Errorf("got %q, error %v", user, err)
			}
		})
	}
}

func TestCredentialHelperFails(t *testing.T) {
	store := credentialStore{path: writeFile(t, "config.json", `{"credHelpers":{"quay.io":"missing"}}`)}
	if _, _, err := store.get(t.Context(), "quay.io", "a"); err == nil || !strings.Contains(err.Error(), "missing") {
		t.Errorf("got error %v", err)
	}
}

func TestCredentialKeys(t *testing.T) {
	for _, key := range []string{"https://index.docker.io/v1/", "docker.io", "registry-1.docker.io", "index.docker.io"} {
		store := credentialStore{path: dockerConfig(t, key, "ann:s3cret")}
		if user, _, err := store.get(t.Context(), "registry-1.docker.io", "library/x"); user != "ann" || err != nil {
			t.Errorf("%s: got %q, error %v", key, user, err)
		}
		if user, secret, err := store.get(t.Context(), "quay.io", "library/x"); user != "" || secret != "" || err != nil {
			t.Errorf("%s, for quay.io: got %q, error %v", key, user, err)
		}
	}
	store := credentialStore{path: writeFile(t, "config.json", `{"auths":{"quay.io":{"identitytoken":"t0ken"}}}`)}
	if user, secret, err := store.get(t.Context(), "quay.io", "x"); user != "" || secret != "t0ken" || err != nil {
		t.Errorf("identity token: got %q, %q, error %v", user, secret, err)
	}
}

// A registry's credentials are found however the file and the endpoint's URL spell it.
func TestCredentialsForEverySpelling(t *testing.T) {
	for _, spellings := range [][]string{
		{"r.example.com", "R.example.com:443", "r.example.com.", "r.example.com:0443"},
		{"[::ffff:10.0.0.1]:5000", "10.0.0.1:5000"},
	} {
		for _, key := range spellings {
			store := credentialStore{path: dockerConfig(t, "https://"+key+"/v2/", "ann:s3cret")}
			for _, host := range spellings {
				if user, _, err := store.get(t.Context(), host, "team/app"); user != "ann" || err != nil {
					t.Errorf("%s for %s: got %q, error %v", key, host, user, err)
				}
			}
		}
	}
	for key, host := range map[string]string{
		"registry.hub.docker.com": "registry-1.docker.io", "docker.io:443": "registry-1.docker.io", "*.example.com:443": "r.example.com", "r.example.com:5000": "r.example.com",
	} {
		store := credentialStore{path: dockerConfig(t, key, "ann:s3cret")}
		if user, _, err := store.get(t.Context(), host, "team/app"); user == "ann" != (key != "r.example.com:5000") || err != nil {
			t.Errorf("%s for %s: got %q, error %v", key, host, user, err)
		}
	}
	helper(t, "test", "r.example.com:443") // As docker login was once told.
	store := credentialStore{path: writeFile(t, "config.json", `{"credsStore":"test"}`)}
	if user, _, err := store.get(t.Context(), "r.example.com:443", "team/app"); user != "ann" || err != nil {
		t.Errorf("got %q, error %v", user, err)
	}
}

// Of the entries of a Secret, the most specific one for an image counts, as for kubelet.
func TestCredentialsOfASecret(t *testing.T) {
	entry := func(user string) string {
		return fmt.Sprintf(`{"username":%q,"password":"p","email":"e@example.com","auth":%q}`, user,
			base64.StdEncoding.EncodeToString([]byte(user+":p")))
	}
	store := credentialStore{path: writeFile(t, "config.json", fmt.Sprintf(
		`{"auths":{"quay.io":%s,"quay.io/team":%s,"https://quay.io/team/app":%s,"*.azurecr.io":%s,"one.azurecr.io":%s,"r.example:5000":{"username":"plain","password":"p"}}}`,
		entry("host"), entry("team"), entry("app"), entry("any"), entry("one")))}
	for _, test := range []struct{ host, repository, want string }{
		{"quay.io", "other/app", "host"},
		{"quay.io", "team/other", "team"},
		{"quay.io", "teams/app", "host"},
		{"quay.io", "team/app", "app"},
		{"quay.io", "team/app/more", "app"},
		{"two.azurecr.io", "x", "any"},
		{"one.azurecr.io", "x", "one"},
		{"a.b.azurecr.io", "x", ""},
		{"azurecr.io", "x", ""},
		{"r.example:5000", "x", "plain"},
		{"r.example", "x", ""},
	} {
		user, secret, err := store.get(t.Context(), test.host, test.repository)
		if user != test.want || (user != "") != (secret == "p") || err != nil {
			t.Errorf("%s/%s: got %q, error %v; want %q", test.host, test.repository, user, err, test.want)
		}
	}
}

// A mounted Secret is a directory whose files change at once, by a link that is replaced.
func TestCredentialsOfAMountedSecret(t *testing.T) {
	for name, body := range map[string]string{
		".dockerconfigjson": `{"auths":{"quay.io":{"auth":%q}}}`,
		"config.json":       `{"auths":{"quay.io":{"auth":%q}}}`,
		".dockercfg":        `{"quay.io":{"auth":%q}}`,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			store := credentialStore{path: dir}
			if _, _, err := store.get(t.Context(), "quay.io", "x"); err == nil {
				t.Error("an empty directory is no error")
			}
			for i, user := range []string{"ann", "bob"} {
				version := filepath.Join(dir, fmt.Sprint("..", i))
				if err := os.Mkdir(version, 0o700); err != nil {
					t.Fatal(err)
				}
				text := fmt.Sprintf(body, base64.StdEncoding.EncodeToString([]byte(user+":pw")))
				if err := os.WriteFile(filepath.Join(version, name), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
				link := filepath.Join(dir, "..tmp")
				if err := errors.Join(os.Symlink(version, link), os.Rename(link, filepath.Join(dir, "..data"))); err != nil {
					t.Fatal(err)
				}
				if i == 0 {
					if err := os.Symlink("..data/"+name, filepath.Join(dir, name)); err != nil {
						t.Fatal(err)
					}
				}
				if got, _, err := store.get(t.Context(), "quay.io", "x"); got != user || err != nil {
					t.Errorf("got %q, error %v; want %q", got, err, user)
				}
			}
		})
	}
}

func TestBrokenCredentialsDoNotShow(t *testing.T) {
	for _, body := range []string{
		`{"auths":{"quay.io":"hunter2"}}`, `{"auths":{"quay.io":{"auth":"hunter2"}}}`, `hunter2`, `{"auths":{"quay.io":{"auth":"aHVudGVyMg=="}}}`,
	} {
		store := credentialStore{path: writeFile(t, "config.json", body)}
		_, _, err := store.get(t.Context(), "quay.io", "x")
		if err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: got error %v", body, err)
		}
	}
}
