package config

import (
	"fmt"
	"math"
	"regexp"

	"k8s.io/apimachinery/pkg/api/resource"
)

// Bytes is a number of bytes, written as Kubernetes writes quantities: 20Gi, 1.5G, 1048576.
type Bytes int64

// quantityGrammar is the part of Kubernetes' grammar that makes sense for bytes. It also bounds the numbers: quantities
// with large exponents take the parser for ever.
var quantityGrammar = regexp.MustCompile(`^[0-9]{1,19}(\.[0-9]{1,9})?([kMGTPE]|[KMGTPE]i)?$`)

func parseBytes(s string) (Bytes, error) {
	if !quantityGrammar.MatchString(s) {
		return 0, fmt.Errorf("is %s, not a number of bytes such as 20Gi or 500M", quote(s))
	}
	q, err := resource.ParseQuantity(s)
	if err != nil {
		return 0, fmt.Errorf("is %s, not a number of bytes: %w", quote(s), err)
	}
	if q.CmpInt64(math.MaxInt64) > 0 {
		return 0, fmt.Errorf("is %s, more bytes than can be counted", quote(s))
	}
	return Bytes(q.Value()), nil
}

// String writes the number with the largest binary unit that keeps it exact.
func (b Bytes) String() string { return resource.NewQuantity(int64(b), resource.BinarySI).String() }

// MarshalYAML implements yaml.Marshaler.
func (b Bytes) MarshalYAML() (any, error) { return b.String(), nil }
