package main

import (
	"context"
	"fmt"
	"text/tabwriter"

	"github.com/kioo-dev/kioo/hack/fleet"
)

// report prints who got what from where.
func (d *demo) report(ctx context.Context, pulls []*pull) error {
	fmt.Fprintln(d.out)
	w := tabwriter.NewWriter(d.out, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "\ttime\tfrom this node\tfrom peers\tfrom upstream\t")
	for _, p := range pulls {
		took, _ := p.took()
		m, err := p.node.Metrics(ctx)
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "%s\t%.1f s\t%s\t%s\t%s\t\n", p.node.Name, took.Seconds(), mib(fromHere(m)),
			mib(m.Sum("kioo_flight_bytes_total", `source="peer"`)), mib(m.Sum("kioo_flight_bytes_total", `source="upstream"`)))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	sent := float64(d.fleet.Upstream.BlobBytes(""))
	_, err := fmt.Fprintf(d.out, "\nThe registry sent the image %.2f times, to %d nodes.\n", sent/float64(d.total), len(pulls))
	return err
}

// fromHere is what the node had itself when it was asked for.
func fromHere(m fleet.Metrics) float64 {
	var bytes float64
	for _, source := range []string{"containerd", "cache"} {
		bytes += m.Sum("kioo_served_bytes_total", `api="node"`, fmt.Sprintf("source=%q", source))
	}
	return bytes
}

func mib(bytes float64) string { return fmt.Sprintf("%.1f MiB", bytes/(1<<20)) }
