package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A Secret is mounted as a directory, whose key says of which type it is.
func TestMountedCredentials(t *testing.T) {
	for name, test := range map[string]struct{ file, text, wrong string }{
		"dockerconfigjson": {".dockerconfigjson", `{"auths":{}}`, ""},
		"dockercfg":        {".dockercfg", `{}`, ""},
		"docker login":     {"config.json", `{"auths":{}}`, ""},
		"another Secret":   {"password", "hunter2", "has none of"},
		"broken":           {".dockerconfigjson", "hunter2", "is not JSON"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			secret := filepath.Join(dir, "secret")
			text := "apiVersion: kioo.dev/v1alpha1\nkind: MirrorConfiguration\ncredentials: {dockerConfig: secret}\n"
			err := errors.Join(os.Mkdir(secret, 0o700), os.WriteFile(filepath.Join(secret, test.file), []byte(test.text), 0o600),
				os.WriteFile(filepath.Join(dir, "kioo.yaml"), []byte(text), 0o600))
			if err != nil {
				t.Fatal(err)
			}
			_, err = Load(filepath.Join(dir, "kioo.yaml"))
			switch {
			case test.wrong == "" && err != nil:
				t.Error(err)
			case test.wrong != "" && (err == nil || !strings.Contains(err.Error(), test.wrong) || strings.Contains(err.Error(), "hunter2")):
				t.Errorf("got error %v", err)
			}
		})
	}
}
