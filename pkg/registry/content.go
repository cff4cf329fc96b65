package registry

import (
	"context"
	"fmt"
	"net/http"
	"strconv"

	"github.com/kioo-dev/kioo/pkg/content"
	"github.com/kioo-dev/kioo/pkg/mirror"
	"github.com/kioo-dev/kioo/pkg/peer"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const octetStream = "application/octet-stream"

// manifest answers end-3. Runtimes need Content-Type, Content-Length and Docker-Content-Digest on HEAD as well.
func (h *Handler) manifest(w *response, req *http.Request, x *exchange) error {
	a, err := h.cfg.Backend.Manifest(req.Context(), x.ref, origin(req, x))
	if err != nil {
		return err
	}
	defer a.Blob.Close()
	x.source, x.stale = a.Source, a.Stale
	if x.ref.Tag != "" {
		w.Header().Set("Age", strconv.FormatInt(int64(a.Age.Seconds()), 10))
		peer.SetAge(w.Header(), a.Age) // For other members.
	}
	if a.Stale {
		// RFC 7234, section 5.5. RFC 9111 gave the header up, but has nothing in its place.
		w.Header()["Warning"] = []string{`110 - "Response is Stale"`, `111 - "Revalidation Failed"`}
	}
	if a.Descriptor.MediaType == "" {
		a.Descriptor.MediaType = octetStream
	}
	etag := describe(w, a.Descriptor)
	if namesETag(req.Header.Get("If-None-Match"), etag) {
		w.Header().Del("Content-Length")
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	x.desc, x.whole = a.Descriptor, true
	return send(req.Context(), w, req, a, byteRange{0, a.Descriptor.Size}, http.StatusOK)
}

// blob answers end-2. Blobs have no media type of their own; manifests give it to them.
func (h *Handler) blob(w *response, req *http.Request, x *exchange) error {
	if req.Method == http.MethodHead {
		desc, source, err := h.cfg.Backend.Stat(req.Context(), x.ref, origin(req, x))
		if err != nil {
			return err
		}
		x.source = source
		desc.MediaType = octetStream
		describe(w, desc)
		w.Header().Set("Accept-Ranges", "bytes")
		w.WriteHeader(http.StatusOK)
		return nil
	}
	a, err := h.cfg.Backend.Blob(req.Context(), x.ref, resumes(req), origin(req, x))
	if err != nil {
		return err
	}
	defer a.Blob.Close()
	x.source = a.Source
	if arriving, ok := a.Blob.(content.Arriving); ok {
		defer func() { x.source = arriving.Source() }()
	}
	r, partial, err := blobRange(req, a.Descriptor)
	if err != nil {
		return err
	}
	if part, ok := a.Blob.(interface{ Covers(off, n int64) error }); ok {
		if err := part.Covers(r.off, r.n); err != nil {
			return err
		}
	} else if arriving, ok := a.Blob.(content.Arriving); ok {
		if err := arriving.Ready(req.Context(), r.off); err != nil {
			return err
		}
	}
	a.Descriptor.MediaType = octetStream
	describe(w, a.Descriptor)
	w.Header().Set("Accept-Ranges", "bytes")
	status := http.StatusOK
	if partial {
		status = http.StatusPartialContent
		w.Header().Set("Content-Range", r.contentRange(a.Descriptor.Size))
		w.Header().Set("Content-Length", fmt.Sprint(r.n))
	}
	x.desc, x.whole = a.Descriptor, r.off+r.n == a.Descriptor.Size
	return send(req.Context(), w, req, a, r, status)
}

// blobRange gives what a request asks for of a blob. If-Range asks for the whole unless it names what there is (RFC
// 9110, section 13.1.5); what a digest names never changes, so a date can only be somebody else's.
func blobRange(req *http.Request, desc ocispec.Descriptor) (r byteRange, partial bool, err error) {
	header := req.Header.Get("Range")
	if cond := req.Header.Get("If-Range"); cond != "" && cond != etagOf(desc) {
		header = ""
	}
	return parseRange(header, desc.Size)
}

// describe sets the headers that tell what content is, and gives its entity tag.
func describe(w http.ResponseWriter, desc ocispec.Descriptor) string {
	etag := etagOf(desc)
	w.Header().Set("Content-Type", desc.MediaType)
	w.Header().Set("Content-Length", strconv.FormatInt(desc.Size, 10))
	w.Header().Set("Docker-Content-Digest", desc.Digest.String())
	w.Header().Set("ETag", etag)
	return etag
}

func etagOf(desc ocispec.Descriptor) string { return `"` + desc.Digest.String() + `"` }

// send writes the status and, for GET, the bytes.
func send(ctx context.Context, w *response, req *http.Request, a *mirror.Answer, r byteRange, status int) error {
	w.WriteHeader(status)
	if req.Method == http.MethodHead {
		return nil
	}
	if _, err := a.Blob.CopyRange(ctx, w, r.off, r.n); err != nil {
		return fmt.Errorf("send %s: %w", a.Descriptor.Digest, err)
	}
	return nil
}
