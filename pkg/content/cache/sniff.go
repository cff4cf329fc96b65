package cache

import (
	"io"
	"os"

	"github.com/kioo-dev/kioo/pkg/content"
)

// sniffFile gives the media type of a manifest in a file. It is empty for everything else.
func sniffFile(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	first := make([]byte, 1)
	if n, err := file.ReadAt(first, 0); n == 0 || first[0] != '{' {
		if err == io.EOF {
			err = nil
		}
		return "", err
	}
	body, err := io.ReadAll(io.LimitReader(file, content.MaxManifestBytes+1))
	if err != nil {
		return "", err
	}
	return content.ManifestType(body), nil
}
