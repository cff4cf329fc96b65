// Package loadtest holds nothing but tests: what Kioo, as a process, costs and survives under load, abuse and kill -9.
//
// They take a minute or two, and go test -short leaves them out.
package loadtest
