package hosts

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/remotes/docker/config"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	code := m.Run()
	parserPrograms.stop()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// view is what a real containerd makes of a registry: the hosts that it tries, in order.
type view struct {
	Hosts []hostView
	Error string
}

type hostView struct {
	Scheme, Host, Path, Transport string
	Capabilities                  int
	Header                        http.Header
	SkipVerify                    bool
	Authorities, Certificates     int
}

// parser asks one version of containerd.
type parser struct {
	name string
	ask  func(t testing.TB, root, host string) view
}

// parsers gives the real parsers: the linked one, and those of other modules unless tests are to be short.
func parsers(t testing.TB) []parser {
	list := []parser{{name: "linked", ask: askLinked}}
	if testing.Short() {
		return list
	}
	for _, name := range []string{"containerd17", "containerd24"} {
		list = append(list, parser{name: name, ask: parserPrograms.get(t, name).ask})
	}
	return list
}

func askLinked(_ testing.TB, root, host string) view {
	options := config.HostOptions{HostDir: config.HostDirFromRoot(root)}
	hosts, err := config.ConfigureHosts(context.Background(), options)(host)
	if err != nil {
		return view{Error: err.Error()}
	}
	var v view
	for _, h := range hosts {
		hv := hostView{Scheme: h.Scheme, Host: h.Host, Path: h.Path, Capabilities: int(h.Capabilities), Header: h.Header}
		hv.Transport = fmt.Sprintf("%T", h.Client.Transport)
		if tr, ok := h.Client.Transport.(*http.Transport); ok {
			hv.SkipVerify = tr.TLSClientConfig.InsecureSkipVerify
			hv.Certificates = len(tr.TLSClientConfig.Certificates)
			if pool := tr.TLSClientConfig.RootCAs; pool != nil {
				//lint:ignore SA1019 Whether the system's are counted does not matter: they are the same each time.
				hv.Authorities = len(pool.Subjects())
			}
		}
		v.Hosts = append(v.Hosts, hv)
	}
	return v
}

// program is a parser that runs in a process of its own, because its module can't be linked into ours.
type program struct {
	mu  sync.Mutex
	cmd *exec.Cmd
	in  *json.Encoder
	out *bufio.Scanner
	end func()
}

type programs struct {
	mu   sync.Mutex
	all  map[string]*program
	dirs []string
}

var parserPrograms programs

// get builds and starts a program, once for all tests.
func (p *programs) get(t testing.TB, name string) *program {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if prog := p.all[name]; prog != nil {
		return prog
	}
	dir, err := os.MkdirTemp("", name)
	if err != nil {
		t.Fatal(err)
	}
	p.dirs = append(p.dirs, dir)
	binary := filepath.Join(dir, name)
	build := exec.Command("go", "build", "-o", binary, ".")
	build.Dir = filepath.Join("testdata", name)
	build.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-buildvcs=false")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", name, err, out)
	}
	prog := &program{cmd: exec.Command(binary)}
	stdin, err := prog.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := prog.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := prog.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	prog.in, prog.out, prog.end = json.NewEncoder(stdin), bufio.NewScanner(stdout), func() { stdin.Close() }
	prog.out.Buffer(nil, 16<<20)
	if p.all == nil {
		p.all = map[string]*program{}
	}
	p.all[name] = prog
	return prog
}

func (p *programs) stop() {
	for _, prog := range p.all {
		prog.end()
		_ = prog.cmd.Wait()
	}
	for _, dir := range p.dirs {
		_ = os.RemoveAll(dir)
	}
}

func (p *program) ask(t testing.TB, root, host string) view {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.in.Encode(struct{ Root, Host string }{root, host}); err != nil {
		t.Fatal(err)
	}
	if !p.out.Scan() {
		t.Fatalf("no answer for %s in %s: %v", host, root, p.out.Err())
	}
	var v view
	if err := json.Unmarshal(p.out.Bytes(), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

const testMirror = "http://127.0.0.1:28500"

// isMirror says that a host is the mirror as it should be: first-class for pull and resolve, and for nothing else.
func isMirror(h hostView) bool {
	return h.Scheme == "http" && h.Host == "127.0.0.1:28500" && h.Path == "/v2" && h.Capabilities == 1|2 &&
		len(h.Header) == 0 && !h.SkipVerify && h.Authorities == 0 && h.Certificates == 0 &&
		h.Transport == "*http.Transport"
}

// tree tells all names below a directory with their modes, links and contents.
func treeOf(t testing.TB, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := os.Lstat(path)
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		fmt.Fprintf(&b, "%s %v", rel, info.Mode())
		switch {
		case info.Mode()&os.ModeSymlink != 0:
			target, _ := os.Readlink(path)
			fmt.Fprintf(&b, " -> %s", target)
		case info.Mode().IsRegular():
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " %q", data)
		}
		b.WriteByte('\n')
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// put writes files below a directory; a name that ends in a slash is an empty directory.
func put(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(name, "/") {
			if err := os.MkdirAll(path, 0o755); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func read(t testing.TB, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// scratch gives a directory in memory, where there is one: every change is synced to the disk, which takes time.
func scratch(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "kioo-hosts")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// newRoot makes an empty registry directory inside of a directory of its own.
func newRoot(t testing.TB) string {
	t.Helper()
	root := filepath.Join(scratch(t), "certs.d")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	return root
}

func testConfig(root string) Config { return Config{Root: root, Mirror: testMirror} }

func mustConfigure(t testing.TB, cfg Config) Result {
	t.Helper()
	result, err := Configure(context.Background(), cfg)
	if err != nil {
		t.Fatalf("configure: %v", err)
	}
	return result
}

func mustCleanup(t testing.TB, root string) Result {
	t.Helper()
	result, err := Cleanup(context.Background(), testConfig(root))
	if err != nil {
		t.Fatalf("clean up: %v", err)
	}
	return result
}
