package hosts

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"
)

// The lines around what we put into a file. They mark it for people, and for Cleanup where its records are lost.
const (
	beginMark = `# kioo: begin (written by "kioo configure", taken out by "kioo cleanup")`
	endMark   = `# kioo: end`
)

// markedBlock is our entry as it is written, for whatever mirror.
var markedBlock = regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(beginMark) + "\r?\n" +
	`\[host\."[^"\n]*"\]` + "\r?\n" + regexp.QuoteMeta(capabilitiesLine) + "\r?\n" +
	regexp.QuoteMeta(endMark) + "(\r?\n|$)")

// capabilitiesLine is all that our entry says. More capabilities would make containerd push through the mirror, or,
// before 2.2, discard the whole file; a dial_timeout makes 2.0 try TLS first.
const capabilitiesLine = `capabilities = ["pull", "resolve"]`

// entry is our entry for a mirror, with either kind of line ends.
func entry(mirror, newline string) string {
	lines := []string{beginMark, "[host." + quote(mirror) + "]", capabilitiesLine, endMark, ""}
	return strings.Join(lines, newline)
}

// merge puts the mirror's entry before all hosts of a file, and leaves every other byte as it is, apart from other
// entries for the same mirror, which go. The result is read again and compared with what was meant, so that a
// surprise in somebody's TOML can't change the meaning of their file.
func merge(base []byte, mirror string) ([]byte, error) {
	if _, err := parse(base); err != nil {
		return nil, err // Containerd ignores the file. Without the tables that strip takes out it might not.
	}
	rest, err := strip(base, []string{mirror}, true)
	if err != nil {
		return nil, err
	}
	exprs, err := scan(rest)
	if err != nil {
		return nil, err
	}
	before, err := parse(rest)
	if err != nil {
		return nil, err
	}
	at, err := insertionPoint(rest, exprs)
	if err != nil {
		return nil, err
	}
	newline := "\n"
	if i := bytes.IndexByte(rest, '\n'); i > 0 && rest[i-1] == '\r' {
		newline = "\r\n"
	}
	var out bytes.Buffer
	out.Write(rest[:at])
	if at > 0 && rest[at-1] != '\n' {
		out.WriteString(newline)
	}
	out.WriteString(entry(mirror, newline))
	out.Write(rest[at:])
	after, err := parse(out.Bytes())
	if err != nil {
		return nil, fmt.Errorf("the file's layout leaves no place for the mirror: %w", err)
	}
	want := document{root: before.root, hosts: append([]endpoint{mirrorEndpoint(mirror)}, before.hosts...)}
	if !reflect.DeepEqual(after, want) {
		return nil, errors.New("the file's layout leaves no place for the mirror: its meaning would change")
	}
	return out.Bytes(), nil
}

func mirrorEndpoint(mirror string) endpoint {
	return endpoint{name: mirror, capabilities: []string{"pull", "resolve"}}
}

// insertionPoint is before the first table, because keys of the root can't come after one, and before the comments
// that stand directly on top of that table.
func insertionPoint(data []byte, exprs []expr) (int, error) {
	for i, e := range exprs {
		if e.kind == unstable.KeyValue && e.key[0] == "host" {
			return 0, errors.New(`hosts are written as keys of the root ("host.… =" or "host = {…}"), which containerd 2 ` +
				`ignores and 1.x tries before any table: write them as [host."https://…"] tables`)
		}
		if !e.isTable() {
			continue
		}
		at := e.start
		for j := i - 1; j >= 0 && exprs[j].kind == unstable.Comment && adjacent(data, exprs[j]); j-- {
			at = exprs[j].start
		}
		return at, nil
	}
	return len(data), nil
}

// adjacent says that the next expression is on the line after the comment.
func adjacent(data []byte, comment expr) bool {
	return bytes.Count(data[comment.start:comment.end], []byte("\n")) == 1
}

// strip takes the mirrors' entries out of a file: those that are marked as ours and, if all is set, every table of
// one of these mirrors, however it came there. Keys that somebody wrote below the end mark are theirs and stay: they
// become keys of the root, which is where one means to write when one writes outside of the marks.
func strip(data []byte, mirrors []string, all bool) ([]byte, error) {
	exprs, err := scan(data)
	if err != nil {
		return nil, err
	}
	var kept []byte
	pos, tables := 0, 0
	drop := func(from, to int) {
		kept = append(kept, data[pos:from]...)
		pos = to
	}
	for i := 0; i < len(exprs); i++ {
		e := exprs[i]
		marked := i > 0 && exprs[i-1].is(data, beginMark)
		switch {
		case e.is(data, beginMark), e.is(data, endMark):
			drop(e.start, e.lineEnd(data))
		case e.kind == unstable.Table && len(e.key) >= 2 && e.key[0] == "host" &&
			(marked || all && sameMirror(e.key[1], mirrors)):
			i = lastOf(data, exprs, i, tables == 0)
			drop(e.start, exprs[i].end)
		case e.isTable():
			tables++
		}
	}
	if pos == 0 {
		return data, nil
	}
	return append(kept, data[pos:]...), nil
}

// lastOf gives the last expression that goes with the table at i: its last key, and none below the end mark if
// those can stay.
func lastOf(data []byte, exprs []expr, i int, canStay bool) int {
	last := i
	for j := i + 1; j < len(exprs) && !exprs[j].isTable(); j++ {
		if canStay && exprs[j].is(data, endMark) {
			break
		}
		if exprs[j].kind == unstable.KeyValue {
			last = j
		}
	}
	return last
}

// cut takes an untouched entry of ours out of a file that is no TOML.
func cut(data []byte) []byte { return markedBlock.ReplaceAll(data, nil) }

func sameMirror(name string, mirrors []string) bool {
	return slices.Contains(mirrors, strings.TrimRight(name, "/"))
}

// blank says that nothing but white space is left of a file.
func blank(data []byte) bool { return len(bytes.TrimSpace(data)) == 0 }

// render writes a document anew. It is for directories that have no hosts.toml of their own; files that exist are
// merged instead.
func render(doc document, comment string) []byte {
	var b strings.Builder
	if doc.empty() {
		return nil
	}
	b.WriteString("# " + comment + "\n")
	if doc.root.name != "" {
		b.WriteString("server = " + quote(doc.root.name) + "\n")
	}
	renderEndpoint(&b, doc.root, "header")
	written := map[string]bool{}
	for _, h := range doc.hosts {
		if written[h.name] {
			continue // Tables of one host that are not together make containerd try it twice; once is enough.
		}
		written[h.name] = true
		b.WriteString("\n[host." + quote(h.name) + "]\n")
		renderEndpoint(&b, h, "host."+quote(h.name)+".header")
	}
	return []byte(b.String())
}

func renderEndpoint(b *strings.Builder, e endpoint, headerTable string) {
	if len(e.capabilities) > 0 {
		b.WriteString("capabilities = " + quoteList(e.capabilities) + "\n")
	}
	if e.ca != nil {
		b.WriteString("ca = " + quoteList(e.ca) + "\n")
	}
	if len(e.client) > 0 {
		pairs := make([]string, 0, len(e.client))
		for _, p := range e.client {
			key := p[1]
			if key == "" {
				key = p[0] // The same file has both. Lists of mixed types are an error for containerd 1.x.
			}
			pairs = append(pairs, quoteList([]string{p[0], key}))
		}
		b.WriteString("client = [" + strings.Join(pairs, ", ") + "]\n")
	}
	if e.skipVerify != nil {
		b.WriteString("skip_verify = " + strconv.FormatBool(*e.skipVerify) + "\n")
	}
	if e.overridePath {
		b.WriteString("override_path = true\n")
	}
	if e.dialTimeout != "" {
		b.WriteString("dial_timeout = " + quote(e.dialTimeout) + "\n")
	}
	if len(e.header) > 0 {
		b.WriteString("\n[" + headerTable + "]\n")
		for _, key := range slices.Sorted(maps.Keys(e.header)) {
			b.WriteString(quote(key) + " = " + quoteList(e.header[key]) + "\n")
		}
	}
}

func quoteList(list []string) string {
	quoted := make([]string, 0, len(list))
	for _, s := range list {
		quoted = append(quoted, quote(s))
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

// quote writes a TOML basic string.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < 0x20 || r == 0x7f:
			fmt.Fprintf(&b, `\u%04X`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
