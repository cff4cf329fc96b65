package evilregistry

import (
	"bytes"
	"fmt"
	"io"
	"net/http"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Manifest serves bytes as a manifest, by a tag, if that is not empty, and by their digest, with whatever type.
func Manifest(repository, tag, mediaType string, body []byte) ([]Rule, error) {
	hash, err := digestOf(body)
	if err != nil {
		return nil, err
	}
	rule := Rule{
		Repository: repository, Object: "manifests/" + hash, Body: body,
		Header: map[string]string{"Content-Type": mediaType, "Docker-Content-Digest": hash},
	}
	rules := []Rule{rule}
	if tag != "" {
		rule.Object = "manifests/" + tag
		rules = append(rules, rule)
	}
	return rules, nil
}

// Blob serves bytes as a blob.
func Blob(repository string, body []byte) ([]Rule, error) {
	hash, err := digestOf(body)
	if err != nil {
		return nil, err
	}
	return []Rule{{
		Repository: repository, Object: "blobs/" + hash, Body: body,
		Header: map[string]string{"Content-Type": "application/octet-stream", "Docker-Content-Digest": hash},
	}}, nil
}

// Image serves an image honestly.
func Image(repository, tag string, image v1.Image) ([]Rule, error) {
	manifest, err := image.RawManifest()
	if err != nil {
		return nil, err
	}
	mediaType, err := image.MediaType()
	if err != nil {
		return nil, err
	}
	rules, err := Manifest(repository, tag, string(mediaType), manifest)
	if err != nil {
		return nil, err
	}
	config, err := image.RawConfigFile()
	if err != nil {
		return nil, err
	}
	blobs := [][]byte{config}
	layers, err := image.Layers()
	if err != nil {
		return nil, err
	}
	for _, layer := range layers {
		body, err := read(layer)
		if err != nil {
			return nil, err
		}
		blobs = append(blobs, body)
	}
	for _, body := range blobs {
		more, err := Blob(repository, body)
		if err != nil {
			return nil, err
		}
		rules = append(rules, more...)
	}
	return rules, nil
}

func read(layer v1.Layer) ([]byte, error) {
	in, err := layer.Compressed()
	if err != nil {
		return nil, err
	}
	defer in.Close()
	return io.ReadAll(in)
}

// Claims says of everything in a repository that it is there, to those who only ask whether it is.
func Claims(repository string, size int64) Rule {
	return Rule{Method: http.MethodHead, Repository: repository, Length: size, Header: map[string]string{
		"Content-Type": "application/vnd.oci.image.manifest.v1+json",
	}}
}

// Basic asks for a password whoever brings none, and is content with any.
func Basic(repository string) Rule {
	return Rule{Repository: repository, Anonymous: true, Status: http.StatusUnauthorized, Header: map[string]string{
		"WWW-Authenticate": `Basic realm="evil"`,
	}}
}

// Bearer sends whoever brings nothing to a token service.
func Bearer(repository, realm string) Rule {
	return Rule{Repository: repository, Anonymous: true, Status: http.StatusUnauthorized, Header: map[string]string{
		"WWW-Authenticate": fmt.Sprintf(`Bearer realm=%q,service="evil"`, realm),
	}}
}

// Redirect leads everybody who asks for a repository somewhere else.
func Redirect(repository, to string) Rule {
	return Rule{Repository: repository, Status: http.StatusTemporaryRedirect, Header: map[string]string{"Location": to}}
}

// Stub promises a blob of some size, sends one byte of it, and leaves it at that.
func Stub(repository, digest string, size int64) Rule {
	return Rule{Repository: repository, Object: "blobs/" + digest, Body: []byte("x"), Length: size, Hang: true}
}

func digestOf(body []byte) (string, error) {
	hash, _, err := v1.SHA256(bytes.NewReader(body))
	return hash.String(), err
}
