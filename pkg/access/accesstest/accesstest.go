// Package accesstest has registries say things to a book, for tests of packages that act on what it knows.
package accesstest

import (
	"net/http"

	"github.com/kioo-dev/kioo/pkg/access"
	"github.com/kioo-dev/kioo/pkg/reference"
)

// Accept has a registry give a manifest to a client, or to everybody without any client's credentials.
func Accept(b *access.Book, repo reference.Repository, c access.Credentials) {
	b.Learn(access.Answer{
		Repository: repo, Credentials: c, Asked: access.Content, Manifest: "v1", Speaker: access.Registry,
		Status: http.StatusOK, Named: true,
	})
}

// Refuse has a registry refuse a client, or everybody without any client's credentials.
func Refuse(b *access.Book, repo reference.Repository, c access.Credentials, challenge ...string) {
	b.Learn(access.Answer{
		Repository: repo, Credentials: c, Asked: access.Content, Speaker: access.Registry,
		Status: http.StatusUnauthorized, Challenge: challenge,
	})
}

// Down has a registry not answer.
func Down(b *access.Book, repo reference.Repository) {
	b.Learn(access.Answer{Repository: repo, Asked: access.Content, Down: true})
}
