package main

import (
	"fmt"
	"os"
	"time"
)

func (w *world) debug() {
	if os.Getenv("DEBUG") == "" {
		return
	}
	var before int64
	w.every(500*time.Millisecond, func(w *world) bool {
		s := fmt.Sprintf("%6.2f up %.2f", float64(w.now)/1e9, float64(w.origin.sent-before)/w.upstream*2)
		before = w.origin.sent
		for _, n := range w.nodes {
			if n.load != nil && (n.reading != nil || w.scenario.nodes < 4) {
				s += fmt.Sprintf(" | %s %d/%d out %d q %d", n.id, n.load.Have().Count(), w.layout.Pieces(), len(n.out), len(n.leases))
				if n.reading != nil {
					s += fmt.Sprintf(" r %d<%d", n.reading.piece, n.reading.lease.End/w.layout.PieceSize)
				}
			}
		}
		fmt.Println(s)
		return true
	})
}
