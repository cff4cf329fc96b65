package hosts

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var errCut = errors.New("cut short")

// cutAt makes a file system that stops for good before its n-th change, as if the process had been killed there. A
// file that was about to be created is there then, with nothing or half of something in it.
func cutAt(n int, reached *bool) disk {
	return disk{step: func(op, path string) error {
		if n--; n > 0 {
			return nil
		}
		if n == 0 && op == "create" {
			_ = os.WriteFile(path, []byte("half of"), 0o600)
		}
		*reached = true
		return errCut
	}}
}

func crashTree(t *testing.T, withRoot bool) (parent, root string) {
	t.Helper()
	parent = scratch(t)
	root = filepath.Join(parent, "certs.d")
	if withRoot {
		put(t, root, map[string]string{
			"a.example/hosts.toml": "server = \"https://u\"\n[host.\"https://a\"]\n", "b.example/": "",
			"c.example/hosts.toml": "",
		})
		if err := os.Symlink("../a.example/hosts.toml", filepath.Join(root, "b.example", hostsName)); err != nil {
			t.Fatal(err)
		}
	}
	return parent, root
}

// checkConfigured says that the mirror is everywhere, and nothing else that should not be there.
func checkConfigured(t *testing.T, root string) {
	t.Helper()
	for _, host := range []string{"a.example", "b.example", "c.example", "docker.io"} {
		if v := askLinked(t, root, host); v.Error != "" || !isMirror(v.Hosts[0]) || len(v.Hosts) > 3 {
			t.Errorf("%s: got %+v", host, v)
		}
	}
}

// TestKilledAnywhere kills configure and cleanup before each of their changes. After each, a reader sees a whole
// file, and the next configure or cleanup gives exactly what it would have given without the accident.
func TestKilledAnywhere(t *testing.T) {
	ctx := context.Background()
	for _, withRoot := range []bool{true, false} {
		for _, verb := range []string{"configure", "change", "cleanup"} {
			steps := 0
			for n := 1; ; n++ {
				reached := false
				for _, next := range []string{"configure", "cleanup"} {
					t.Run(fmt.Sprintf("%s root %v, %d, %s", verb, withRoot, n, next), func(t *testing.T) {
						parent, root := crashTree(t, withRoot)
						before := treeOf(t, parent)
						cfg, err := testConfig(root).validate()
						if err != nil {
							t.Fatal(err)
						}
						if verb != "configure" {
							mustConfigure(t, cfg)
						}
						switch verb {
						case "cleanup":
							_, err = cleanup(ctx, cfg, cutAt(n, &reached))
						case "change":
							cfg.Mirror = "http://127.0.0.1:30500"
							_, err = configure(ctx, cfg, cutAt(n, &reached))
						default:
							_, err = configure(ctx, cfg, cutAt(n, &reached))
						}
						if reached != errors.Is(err, errCut) {
							t.Fatalf("cut: %v, error: %v", reached, err)
						}
						if _, err := os.Stat(root); err == nil {
							for _, host := range []string{"a.example", "b.example", "c.example", "docker.io"} {
								if v := askLinked(t, root, host); v.Error != "" || len(v.Hosts) == 0 {
									t.Errorf("%s: containerd sees %+v", host, v)
								}
							}
						}
						if next == "configure" {
							mustConfigure(t, testConfig(root))
							checkConfigured(t, root)
							if now := treeOf(t, parent); strings.Contains(now, "half of") {
								t.Errorf("remains are left:\n%s", now)
							}
						}
						mustCleanup(t, root)
						if now := treeOf(t, parent); now != before {
							t.Errorf("after cleaning up:\n%s\nbefore:\n%s", now, before)
						}
					})
				}
				if !reached {
					steps = n - 1
					break
				}
			}
			if steps < 6 {
				t.Errorf("%s with root %v: only %d changes were cut", verb, withRoot, steps)
			}
		}
	}
}

// TestFailingDirectory lets one directory's changes fail, as read-only mounts and immutable files do.
func TestFailingDirectory(t *testing.T) {
	root := newRoot(t)
	put(t, root, map[string]string{"a.example/hosts.toml": "server = \"https://u\"\n", "b.example/": ""})
	before := treeOf(t, root)
	cfg, err := testConfig(root).validate()
	if err != nil {
		t.Fatal(err)
	}
	failing := disk{step: func(_, path string) error {
		if strings.HasPrefix(path, filepath.Join(root, "a.example")) {
			return os.ErrPermission
		}
		return nil
	}}
	result, err := configure(context.Background(), cfg, failing)
	if !errors.Is(err, os.ErrPermission) || entryOf(t, result, "a.example").Action != Refused {
		t.Errorf("got %+v, %v", result, err)
	}
	if v := askLinked(t, root, "b.example"); len(v.Hosts) != 2 || !isMirror(v.Hosts[0]) {
		t.Errorf("got %+v", v)
	}
	mustConfigure(t, cfg)
	if _, err = cleanup(context.Background(), cfg, failing); !errors.Is(err, os.ErrPermission) {
		t.Errorf("got %v", err)
	}
	mustCleanup(t, root)
	if now := treeOf(t, root); now != before {
		t.Errorf("after cleaning up:\n%s\nbefore:\n%s", now, before)
	}
}
