package daemon

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Purge deletes what mirrors keep in a data directory, and leaves what is not theirs. No mirror may use it.
func Purge(dataDir string) error {
	var errs []error
	for _, name := range []string{CacheDir, discoveryDir, zoneFile, accessFile, eventsFile} {
		if err := os.RemoveAll(filepath.Join(dataDir, name)); err != nil {
			errs = append(errs, fmt.Errorf("delete the mirror's data: %w", err))
		}
	}
	return errors.Join(errs...)
}
