package swarm

// hashes has the hash of each piece that is known. That one is not known is never said by a value of it, for any value
// can be the hash that somebody tells.
type hashes struct {
	sums  []Hash
	known Pieces
}

func newHashes(pieces int) hashes { return hashes{sums: make([]Hash, pieces)} }

// of gives a piece's hash, if there is one.
func (h *hashes) of(piece int) (Hash, bool) {
	if !h.known.Has(piece) {
		return Hash{}, false
	}
	return h.sums[piece], true
}

func (h *hashes) set(piece int, hash Hash) {
	h.known.Add(piece)
	h.sums[piece] = hash
}
