package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/kioo-dev/kioo/pkg/mirror"
	"github.com/kioo-dev/kioo/pkg/reference"
	"github.com/kioo-dev/kioo/pkg/upstream"
)

// The error codes of the distribution specification ("Error Codes") that this registry answers with, beside those of
// package reference. RANGE_INVALID is not in it; registries in use answer so.
const (
	codeBlobUnknown     reference.Code = "BLOB_UNKNOWN"
	codeDenied          reference.Code = "DENIED"
	codeManifestUnknown reference.Code = "MANIFEST_UNKNOWN"
	codeNameUnknown     reference.Code = "NAME_UNKNOWN"
	codeRangeInvalid    reference.Code = "RANGE_INVALID"
	codeUnauthorized    reference.Code = "UNAUTHORIZED"
)

// refusal is an answer that is no content: a status, and what the body says.
type refusal struct {
	status  int
	code    reference.Code
	message string
	header  http.Header
}

func (r *refusal) Error() string { return r.message }

func refuse(status int, code reference.Code, format string, args ...any) *refusal {
	return &refusal{status: status, code: code, message: fmt.Sprintf(format, args...)}
}

// refused turns whatever went wrong before the first byte into an answer. All that the client could get elsewhere is
// a 404: container runtimes then go to the next host at once, where other statuses make them retry here or wait. Where
// upstream wants to know who asks, the client gets to hear that as upstream said it; but for one that would answer with
// another registry's password. That one hears 403, for no credentials help.
func refused(x *exchange, err error) *refusal {
	var (
		own       *refusal
		name      *reference.Error
		elsewhere *mirror.Elsewhere
		denied    *mirror.Denied
	)
	switch {
	case errors.As(err, &own):
		return own
	case errors.As(err, &name):
		if name.Code == reference.CodeUnsupported {
			return refuse(http.StatusNotFound, name.Code, "%s", name.Message)
		}
		return refuse(http.StatusBadRequest, name.Code, "%s", name.Message)
	case errors.As(err, &elsewhere):
		r := refuse(http.StatusTemporaryRedirect, codeBlobUnknown, "%v", err)
		r.header = http.Header{"Location": {elsewhere.URL}}
		return r
	case errors.As(err, &denied) && len(denied.Challenge) > 0 && !x.relays:
		return refuse(http.StatusForbidden, codeDenied, "%v, and clients that name it in the path are not asked, for they have one password for "+
			"all registries: name it in the mirror's access.relayPathForm, or pull by ns", err)
	case errors.As(err, &denied) && len(denied.Challenge) > 0:
		r := refuse(http.StatusUnauthorized, codeUnauthorized, "%v", err)
		r.header = http.Header{"Www-Authenticate": denied.Challenge}
		return r
	case errors.Is(err, upstream.ErrLoop):
		return refuse(http.StatusLoopDetected, reference.CodeUnsupported, "%v", err)
	case errors.Is(err, mirror.ErrDenied), errors.Is(err, mirror.ErrProbe):
		return refuse(http.StatusNotFound, codeNameUnknown, "%v", err)
	}
	code := codeNameUnknown
	switch x.kind {
	case reference.KindBlob:
		code = codeBlobUnknown
	case reference.KindManifest:
		code = codeManifestUnknown
	}
	return refuse(http.StatusNotFound, code, "%v", err)
}

// write sends the refusal in the specification's form.
func (r *refusal) write(w http.ResponseWriter) {
	type entry struct {
		Code    reference.Code `json:"code"`
		Message string         `json:"message"`
	}
	body, err := json.Marshal(struct {
		Errors []entry `json:"errors"`
	}{[]entry{{r.code, r.message}}})
	if err != nil {
		body = []byte(`{"errors":[]}`) // Two strings always marshal.
	}
	for name, values := range r.header {
		w.Header()[name] = values
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	w.WriteHeader(r.status)
	_, _ = w.Write(body) // The client may have left.
}
