package cache

import (
	"io"
	"os"

	"github.com/kioo-dev/kioo/pkg/content"
)

// anything is the media type that registries give to everything that is asked for as a blob.
const anything = "application/octet-stream"

// trueMediaType gives the media type that is noted of a blob: what the bytes say, where these are a manifest, and else
// what was declared, if that says anything. Whoever serves bytes may declare what he likes, and what is noted of held
// content is for everybody.
func trueMediaType(said, declared string) string {
	switch {
	case said != "":
		return said
	case declared == anything:
		return ""
	}
	return declared
}

// sniffFile gives the media type of a manifest in a file. It is empty for everything else.
func sniffFile(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return "", err
	}
	return sniff(file, info.Size())
}

// sniff gives the media type of a manifest of that many bytes. It reads one byte of what is none.
func sniff(from io.ReaderAt, size int64) (string, error) {
	if size == 0 || size > content.MaxManifestBytes {
		return "", nil
	}
	first := make([]byte, 1)
	if _, err := from.ReadAt(first, 0); err != nil && err != io.EOF {
		return "", err
	}
	if first[0] != '{' {
		return "", nil
	}
	body, err := io.ReadAll(io.NewSectionReader(from, 0, size))
	if err != nil {
		return "", err
	}
	return content.ManifestType(body), nil
}
