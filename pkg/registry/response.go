package registry

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
)

// response is a ResponseWriter that knows what was written. It forwards ReadFrom, without which the kernel could not
// copy files to the client.
type response struct {
	http.ResponseWriter
	status  int
	content int64 // Bytes of bodies that are not errors.
}

// Unwrap is for http.ResponseController.
func (r *response) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (r *response) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (r *response) Write(p []byte) (int, error) {
	n, err := r.ResponseWriter.Write(p)
	r.count(int64(n))
	return n, err
}

// ReadFrom implements io.ReaderFrom. What is read at once is for the caller to bound.
func (r *response) ReadFrom(src io.Reader) (int64, error) {
	n, err := io.Copy(r.ResponseWriter, src)
	r.count(n)
	return n, err
}

func (r *response) count(n int64) {
	if r.status < 300 {
		r.content += n
	}
}

func writeJSON(w http.ResponseWriter, mediaType string, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("marshal answer: %w", err)
	}
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	w.WriteHeader(http.StatusOK)
	_, err = w.Write(body)
	return err
}
