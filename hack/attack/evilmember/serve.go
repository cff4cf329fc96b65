package evilmember

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/kioo-dev/kioo/pkg/swarm"
	"github.com/kioo-dev/kioo/pkg/swarm/session"
	"github.com/kioo-dev/kioo/pkg/swarm/tracker"
)

const (
	// maxMessage bounds what others may send.
	maxMessage = 1 << 20
	// aliveEvery is how often a stream of news has something, and aliveFor how long it lives.
	aliveEvery = time.Second
	aliveFor   = time.Minute
)

// serve answers other members.
func (m *Member) serve(w http.ResponseWriter, r *http.Request) {
	m.note(r)
	switch {
	case r.URL.Path == tracker.Path:
		m.track(w, r)
	case strings.HasPrefix(r.URL.Path, session.Path):
		m.have(w, r)
	default:
		m.registry(w, r)
	}
}

// track answers announces with what the lies have, and else honestly.
func (m *Member) track(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxMessage))
	if err != nil {
		return // Whoever asked has left.
	}
	var question struct {
		Key string `json:"key"`
	}
	if json.Unmarshal(body, &question) == nil {
		if answer, ok := m.now().Answers[question.Key]; ok {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write(answer) // Whether it is heard is no concern of ours.
			return
		}
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	m.service.ServeHTTP(w, r)
}

// have tells of pieces that it says to have, with the hashes that the lies say.
func (m *Member) have(w http.ResponseWriter, r *http.Request) {
	key, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, session.Path), "/")
	dgst, err := tracker.DigestOf(key)
	content, ok := m.content(dgst.String())
	if err != nil || !ok {
		http.NotFound(w, r)
		return
	}
	out := http.NewResponseController(w)
	frames := []byte{0} // Alive.
	if len(content.Hash) == 0 {
		frames = append(frames, 2) // It has the whole.
	}
	for piece := range swarm.NewLayout(content.size()).Pieces() {
		if len(content.Hash) > 0 {
			frames = binary.BigEndian.AppendUint16(append(frames, 1), 1)
			frames = append(binary.BigEndian.AppendUint32(frames, uint32(piece)), content.Hash...)
		}
	}
	ticker, end := time.NewTicker(aliveEvery), time.NewTimer(aliveFor)
	defer ticker.Stop()
	defer end.Stop()
	for {
		if _, err := w.Write(frames); err != nil || out.Flush() != nil || len(content.Hash) == 0 {
			return
		}
		frames = []byte{0}
		select {
		case <-ticker.C:
		case <-end.C:
			return
		case <-r.Context().Done():
			return
		}
	}
}

func (m *Member) content(dgst string) (Content, bool) {
	for _, c := range m.now().Content {
		if c.Digest.String() == dgst {
			return c, true
		}
	}
	return Content{}, false
}

// registry answers for tags and content.
func (m *Member) registry(w http.ResponseWriter, r *http.Request) {
	lies := m.now()
	for name, value := range lies.Header {
		w.Header().Set(name, value)
	}
	repository, object, ok := split(r.URL.Path)
	if !ok {
		http.NotFound(w, r)
		return
	}
	for _, t := range lies.Tags {
		if t.Name == r.URL.Query().Get("ns")+"/"+repository+":"+object {
			w.Header().Set("Age", max(t.Age, "0"))
			w.Header().Set("Content-Type", t.MediaType)
			w.Header().Set("Docker-Content-Digest", t.Digest.String())
			w.Header().Set("Content-Length", strconv.FormatInt(t.Size, 10))
			return
		}
	}
	if c, ok := m.content(object); ok {
		send(w, r, &c)
		return
	}
	if lies.Relay {
		m.relay(w, r)
		return
	}
	http.NotFound(w, r)
}

func split(path string) (repository, object string, ok bool) {
	path, ok = strings.CutPrefix(path, "/v2/")
	for _, verb := range []string{"/manifests/", "/blobs/"} {
		if i := strings.LastIndex(path, verb); ok && i > 0 {
			return path[:i], path[i+len(verb):], true
		}
	}
	return "", "", false
}

// send sends content as it is not.
func send(w http.ResponseWriter, r *http.Request, c *Content) {
	start, end, size := int64(0), c.size(), c.size()
	status := http.StatusOK
	var last int64
	switch n, _ := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &start, &last); n {
	case 2:
		end = min(last+1, size)
		fallthrough
	case 1:
		status = http.StatusPartialContent
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", start, end-1, size))
	}
	if c.MediaType != "" {
		w.Header().Set("Content-Type", c.MediaType)
	}
	w.Header().Set("Docker-Content-Digest", c.Digest.String())
	w.Header().Set("Content-Length", strconv.FormatInt(end-start, 10))
	w.WriteHeader(status)
	if r.Method == http.MethodHead || len(c.Body) == 0 {
		return
	}
	for at := start; at < end; {
		from := at % int64(len(c.Body))
		n, err := w.Write(c.Body[from:min(int64(len(c.Body)), from+end-at)])
		if err != nil {
			return // Whoever asked has had enough of it.
		}
		at += int64(n)
	}
}
