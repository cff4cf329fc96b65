package upstream

import (
	"context"
	"fmt"
	"net/url"
)

// Whose says in words with whose credentials a server would be asked, by the configuration file at path. Nobody is
// asked but the file and the helpers that it names.
func Whose(ctx context.Context, path, server, repository string) string {
	u, err := url.Parse(server)
	switch {
	case err != nil:
		return "nobody's: the server's URL can't be read"
	case path == "":
		return "nobody's: none are configured"
	}
	user, secret, err := credentialStore{path: path}.get(ctx, u.Host, repository)
	switch {
	case err != nil:
		return fmt.Sprintf("nobody's: %v", redact(err))
	case secret == "":
		return "nobody's: " + path + " has none for " + u.Host
	case user == "":
		return "those of an identity token in " + path
	}
	return fmt.Sprintf("those of %s in %s", clean(user), path)
}
