package discovery

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/go-logr/logr/funcr"
	"github.com/kioo-dev/kioo/pkg/discovery/internal/wire"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// TestLiarsAreHungUpOn has a member say over a real stream what can't be so: the stream ends, it is counted by its
// reason, and the log has it with the member's name, but not each time. Nothing of it is remembered.
func TestLiarsAreHungUpOn(t *testing.T) {
	reg := prometheus.NewRegistry()
	var mu sync.Mutex
	var lines []string
	resident := startMember(t, func(c *Config) {
		c.Registerer = reg
		c.Log = funcr.New(func(_, args string) {
			mu.Lock()
			defer mu.Unlock()
			lines = append(lines, args)
		}, funcr.Options{Verbosity: 9}) // Tests that say little have all of a member at that level.
	})
	liar := startMember(t, nil)
	const times = 40
	self := liar.Self()
	self.Zone = "no zone"
	lie := wire.Request{Store: &wire.Store{Self: self, Add: hold(blob("a"))}}.Encode()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for range times {
		if err := liar.node.host.Connect(ctx, addrInfo(resident.Self())); err != nil {
			t.Fatal(err)
		}
		s, err := liar.node.host.NewStream(ctx, resident.Self().ID, recordsProtocol)
		if err != nil {
			t.Fatal(err)
		}
		if answer, err := exchange(ctx, s, lie); err == nil {
			t.Fatalf("a lie is answered by %q", answer)
		}
	}
	eventually(t, "all lies are counted", func() bool {
		return testutil.GatherAndCompare(reg, strings.NewReader(fmt.Sprintf(`
# HELP kioo_discovery_refused_messages_total Messages of members that ended the conversation, by what of them was outside of its domain.
# TYPE kioo_discovery_refused_messages_total counter
kioo_discovery_refused_messages_total{reason="zone"} %d
`, times)), "kioo_discovery_refused_messages_total") == nil
	})
	if ids := resident.holders(t, blob("a")); len(ids) != 0 || resident.index.Len() != 0 {
		t.Errorf("a liar's record is kept: %v", ids)
	}
	mu.Lock()
	defer mu.Unlock()
	said := 0
	for _, line := range lines {
		if strings.Contains(line, "breaks the protocol") {
			said++
			if !strings.Contains(line, liar.Self().ID.String()) {
				t.Errorf("the log does not name the liar: %s", line)
			}
		}
	}
	if said == 0 || said > times/2 {
		t.Errorf("the log has %d lies of %d", said, times)
	}
}
