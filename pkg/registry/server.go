package registry

import (
	"net/http"
	"time"

	"github.com/go-logr/logr"
	"github.com/kioo-dev/kioo/pkg/httpserver"
)

const (
	// headerTimeout is how long a client may take to send a request's headers.
	headerTimeout = 10 * time.Second
	// bodyTimeout is how long a client may take to send a body, which nobody wants: what is pulled needs none.
	bodyTimeout = 10 * time.Second
	// writeTimeout is how long a client may take to accept four mebibytes. Runtimes that are cut off resume where they
	// were.
	writeTimeout = time.Minute
	// maxHeaderBytes bounds a request's headers. Bearer tokens of registries are a few KiB.
	maxHeaderBytes = 32 << 10
)

// NewServer makes a server of at most maxConnections connections for a handler of this package. drain is how long
// answers on their way may take once the server is told to stop.
func NewServer(handler http.Handler, maxConnections int, drain time.Duration, log logr.Logger) *httpserver.Server {
	return httpserver.New(httpserver.Config{
		Handler: handler, MaxConnections: maxConnections, HeaderTimeout: headerTimeout, BodyTimeout: bodyTimeout,
		WriteTimeout: writeTimeout, MaxHeaderBytes: maxHeaderBytes, Drain: drain, Log: log,
	})
}
