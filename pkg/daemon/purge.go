package daemon

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/kioo-dev/kioo/pkg/atomicfile"
)

// Purge deletes what mirrors keep in a data directory, and leaves what is not theirs. No mirror may use it.
func Purge(dataDir string) error {
	var errs []error
	for _, name := range []string{CacheDir, discoveryDir, zoneFile, eventsFile} {
		errs = append(errs, os.RemoveAll(filepath.Join(dataDir, name)))
	}
	errs = append(errs, atomicfile.Remove(filepath.Join(dataDir, accessFile)))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("delete the mirror's data: %w", err)
	}
	return nil
}
