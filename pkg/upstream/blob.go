package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/kioo-dev/kioo/pkg/access"
	"github.com/kioo-dev/kioo/pkg/httpclient"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/kioo-dev/kioo/pkg/sleep"
	"github.com/opencontainers/go-digest"
)

const (
	// maxFruitless is after how many attempts in a row without a new byte a blob is given up.
	maxFruitless = 3
	// goodRun is how many bytes from one connection make up for what went wrong before: then the next one is opened
	// without a pause.
	goodRun = 256 << 10
)

var (
	errOtherSize = errors.New("registry contradicts itself about the blob's size")
	errNoSize    = errors.New("registry doesn't tell the blob's size")
	errExcess    = errors.New("registry sends more bytes than the blob has")
)

// Blob reads a part of a blob, and goes on by itself where a connection breaks, stalls or ends early: at the same
// byte, at the same endpoint, then at the next one. The bytes are not verified. A Blob belongs to one goroutine, and
// must be closed: it counts among the registry's concurrent requests until then.
type Blob struct {
	client  *Client
	ctx     context.Context
	reg     *registry
	req     *request
	release func()
	pause   *pause

	off, end int64 // What is still to be read; end is -1 until the size is known.
	size     int64 // -1 until known.
	ranged   bool

	current   int           // The endpoint that body comes from, or will.
	etag      string        // The strong ETag that current answered with.
	body      io.ReadCloser // Nil between two connections.
	left      int64         // What body has to give from off on.
	exact     bool          // The answer's framing proves its length.
	gained    int64         // New bytes from body.
	fruitless int           // Attempts in a row that brought no new byte.
	err       error         // How it ended; io.EOF if well.
}

// Blob opens the bytes of a blob from off up to end, which is not part of them; an end below 0 is the blob's end. It
// returns when the first answer's head is there. ctx governs the reading too.
func (c *Client) Blob(
	ctx context.Context, repo reference.Repository, dgst digest.Digest, off, end int64, o Origin,
) (*Blob, error) {
	if off < 0 || (end >= 0 && end <= off) {
		return nil, fmt.Errorf("get blob %s@%s: bytes from %d to %d are no range", repo, dgst, off, end)
	}
	r := blobRequest("get blob", http.MethodGet, repo, dgst, o)
	r.blob = dgst
	reg, release, err := c.open(ctx, r, true)
	if err != nil {
		return nil, err
	}
	b := &Blob{
		client: c, ctx: ctx, reg: reg, req: r, release: release, pause: c.newPause(),
		off: off, end: max(end, -1), size: -1, ranged: true,
	}
	b.setRange()
	if err := c.ask(ctx, reg, r, b.accept); err != nil {
		release()
		return nil, err
	}
	return b, nil
}

// Forget drops what is remembered of where a blob is, for bytes that turned out to be wrong.
func (c *Client) Forget(repo reference.Repository, dgst digest.Digest) {
	if reg, ok := c.known(repo); ok {
		for _, ep := range reg.endpoints {
			c.targets.Remove(targetKey{endpoint: ep, repository: repo.Path, digest: dgst})
		}
	}
}

// FromRegistry tells whether the registry's own origin answered, and not what it redirected to.
func (b *Blob) FromRegistry() bool { return b.req.speaker == access.Registry }

// Size is the whole blob's size, whatever part is read.
func (b *Blob) Size() int64 { return b.size }

// Ranged says whether the registry honours ranges, as far as was seen. Where it does not, every range costs all the
// bytes before it.
func (b *Blob) Ranged() bool { return b.ranged }

// Close ends the reading.
func (b *Blob) Close() error {
	if b.release == nil {
		return nil
	}
	b.release()
	b.release = nil
	if b.err == nil {
		b.err = errors.New("blob is closed")
	}
	return b.drop()
}

// Read implements io.Reader. A blob that can't be read to its end never ends in io.EOF.
func (b *Blob) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for b.err == nil {
		if b.off == b.end {
			b.err = b.finish()
			break
		}
		if b.body == nil {
			b.err = b.reopen()
			continue
		}
		step, err := b.step(len(p))
		if err != nil {
			b.err = b.fail(err)
			break
		}
		n, err := b.body.Read(p[:step])
		b.off += int64(n)
		b.left -= int64(n)
		b.gained += int64(n)
		if b.left > 0 && err != nil {
			b.broke(err)
		} else if b.left == 0 && b.off < b.end {
			b.broke(io.ErrUnexpectedEOF) // A server may send less than the range that was asked for.
		}
		if n > 0 {
			return n, nil
		}
	}
	return 0, b.err
}

// step is how many bytes are read at once, when the registry's cap has room for them. Who waits for that is not silent.
func (b *Blob) step(most int) (int64, error) {
	n := min(int64(most), b.left)
	if b.reg.limit == nil {
		return n, nil
	}
	n = min(n, int64(b.reg.limit.Burst()))
	if err := b.reg.limit.WaitN(b.ctx, int(n)); err != nil {
		return 0, fmt.Errorf("wait for bandwidth: %w", err)
	}
	return n, nil
}

// finish looks at what follows the last byte, where nothing but the end of the stream says that it was the last.
func (b *Blob) finish() error {
	if b.body != nil && !b.exact && b.end == b.size {
		var one [1]byte
		if n, _ := io.ReadFull(b.body, one[:]); n > 0 {
			_ = b.drop() // What matters is said below.
			return b.req.failed(b.reg.endpoints[b.current], ErrInvalid, errExcess)
		}
	}
	_ = b.drop() // All bytes are here: what the connection does now is no failure of the blob.
	return io.EOF
}

func (b *Blob) drop() error {
	if b.body == nil {
		return nil
	}
	err := b.body.Close()
	b.body = nil
	return err
}

// broke takes note that the current connection gave up.
func (b *Blob) broke(err error) {
	_ = b.drop() // It is broken.
	b.client.targets.Remove(b.req.target(b.reg.endpoints[b.current]))
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if b.ctx.Err() != nil {
		b.err = b.fail(context.Cause(b.ctx))
		return
	}
	if b.gained > 0 {
		b.fruitless = 0
	} else {
		b.fruitless++
	}
	if b.fruitless >= maxFruitless {
		b.err = b.fail(err)
		return
	}
	b.client.cfg.Log.V(1).Info("Blob broke off", "blob", b.req.object, "registry", b.reg.host,
		"endpoint", b.reg.endpoints[b.current].url.Host, "offset", b.off, "cause", redact(err).Error())
	if b.gained >= goodRun {
		b.pause.backoff.Reset()
	} else if wait, ok := b.pause.next(b.ctx, 0); !ok || sleep.For(b.ctx, wait) != nil {
		b.err = b.fail(err)
	}
}

// reopen gets the rest from the endpoint that sent the bytes before, and if it has nothing to give, from the next.
func (b *Blob) reopen() error {
	for {
		if b.fruitless > 0 && len(b.reg.endpoints) > 1 && b.req.origin.Credentials.IsZero() {
			b.current = (b.current + 1) % len(b.reg.endpoints)
			b.etag = ""
		}
		b.setRange()
		err := b.client.askOne(b.ctx, b.reg, b.current, b.req, b.accept)
		if err == nil {
			return nil
		}
		b.fruitless++
		if b.fruitless >= maxFruitless || b.ctx.Err() != nil || (!err.retry && len(b.reg.endpoints) == 1) {
			return b.fail(err)
		}
		if wait, ok := b.pause.next(b.ctx, err.RetryAfter); !ok || sleep.For(b.ctx, wait) != nil {
			return b.fail(err)
		}
	}
}

// fail says where a blob broke off, and makes sure that it does not look like the end.
func (b *Blob) fail(err error) error {
	where := fmt.Sprintf("blob broke off at byte %d of %d", b.off, b.size)
	failed := b.req.failed(b.reg.endpoints[b.current], ErrUnavailable, err)
	return fmt.Errorf("%s: %w", where, failed)
}

// setRange puts what is wanted next into the request.
func (b *Blob) setRange() {
	h := b.req.header
	h.Del("Range")
	h.Del("If-Range")
	end := b.end
	if end == b.size {
		end = -1
	}
	want := httpclient.Range(b.off, end)
	if want == "" {
		return
	}
	h.Set("Range", want)
	if b.etag != "" {
		h.Set("If-Range", b.etag)
	}
}

// accept takes an answer if it fits what is known, and makes it the one that is read.
func (b *Blob) accept(i int, resp *http.Response) (err error) {
	defer func() {
		if err != nil {
			_ = resp.Body.Close() // It was not wanted.
		}
	}()
	ep := b.reg.endpoints[i]
	b.req.named = headerDigest(resp.Header) == b.req.blob
	if encoding := resp.Header.Get("Content-Encoding"); encoding != "" && encoding != "identity" {
		return errEncoded
	}
	part, err := b.measure(ep, resp)
	if err != nil {
		return err
	}
	if b.size >= 0 && part.Total != b.size {
		return fmt.Errorf("%w: %d bytes before, now %d", errOtherSize, b.size, part.Total)
	}
	end := b.end
	if end < 0 || end > part.Total {
		end = part.Total
	}
	if b.off > end || (b.off == end && end > 0) {
		return b.unsatisfiable(ep, part.Total)
	}
	if part.First < b.off {
		// The whole blob came instead of its rest.
		if _, err := io.CopyN(io.Discard, resp.Body, b.off-part.First); err != nil {
			return b.req.failed(ep, ErrUnavailable, fmt.Errorf("skip to byte %d: %w", b.off, err))
		}
	}
	b.size, b.end = part.Total, end
	b.current, b.etag = i, strongETag(resp.Header)
	b.body, b.left, b.gained = resp.Body, min(part.Last+1, end)-b.off, 0
	b.exact = resp.ContentLength >= 0
	if part.ignored || strings.EqualFold(resp.Header.Get("Accept-Ranges"), "none") {
		b.ranged = false
	}
	return nil
}

// part is which bytes of a blob an answer holds.
type part struct {
	httpclient.ContentRange
	ignored bool // A range was asked for, and all bytes came.
}

func (b *Blob) measure(ep *endpoint, resp *http.Response) (part, error) {
	// Another ETag than before is a good reason to send the whole: that says nothing about ranges.
	condition, tag := b.req.header.Get("If-Range"), strongETag(resp.Header)
	ignored := b.req.header.Get("Range") != "" && (condition == "" || tag == "" || condition == tag)
	p := part{ignored: ignored, ContentRange: httpclient.ContentRange{Total: resp.ContentLength}}
	if resp.StatusCode == http.StatusPartialContent {
		r, ok := httpclient.ParseContentRange(resp.Header.Get("Content-Range"))
		if !ok {
			return part{}, errors.New("206 without a readable Content-Range")
		}
		p = part{ContentRange: r}
		wide := p.Last - p.First + 1
		if p.First != b.off || (b.end >= 0 && p.Last >= b.end) || (resp.ContentLength >= 0 && resp.ContentLength != wide) {
			return part{}, fmt.Errorf("bytes %d to %d in an answer of length %d, instead of those from %d on",
				p.First, p.Last, resp.ContentLength, b.off)
		}
	}
	if p.Total < 0 {
		total, err := b.sizeFrom(ep)
		if err != nil {
			return part{}, err
		}
		p.Total = total
	}
	if resp.StatusCode != http.StatusPartialContent {
		p.Last = p.Total - 1
	}
	if p.Last >= p.Total {
		return part{}, fmt.Errorf("bytes up to %d of a blob of %d", p.Last, p.Total)
	}
	return p, nil
}

// sizeFrom gives the size where an answer left it open: what is known, or what HEAD says.
func (b *Blob) sizeFrom(ep *endpoint) (int64, error) {
	if b.size >= 0 {
		return b.size, nil
	}
	r := blobRequest("head blob", http.MethodHead, b.req.repo, digest.Digest(b.req.object), b.req.origin)
	resp, err := b.client.exchange(b.ctx, b.reg, ep, r)
	if err != nil {
		return 0, err
	}
	drain(resp)
	if resp.StatusCode != http.StatusOK || resp.ContentLength < 0 {
		return 0, errNoSize
	}
	return resp.ContentLength, nil
}

func (b *Blob) unsatisfiable(ep *endpoint, total int64) error {
	e := b.req.newError(ep)
	e.Status = http.StatusRequestedRangeNotSatisfiable
	e.Err = fmt.Errorf("byte %d is outside of a blob of %d bytes", b.off, total)
	return e
}

// strongETag gives an ETag that promises the same bytes (RFC 9110, If-Range), or nothing.
func strongETag(header http.Header) string {
	if tag := header.Get("ETag"); strings.HasPrefix(tag, `"`) {
		return tag
	}
	return ""
}
