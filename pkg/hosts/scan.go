package hosts

import (
	"bytes"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/pelletier/go-toml/v2/unstable"
)

// maxFile bounds what is read as a hosts.toml. Real ones have a few hundred bytes.
const maxFile = 1 << 20

// expr is one top-level expression of a TOML file. It goes from start, which is the start of its line, to the start
// of the next one: blank lines belong to what precedes them.
type expr struct {
	kind  unstable.Kind
	key   []string // Of a table's header, or of a key and its value.
	start int
	end   int // Where the next expression starts, or the file ends.
}

// scan finds the expressions of a file, comments on lines of their own included.
func scan(data []byte) ([]expr, error) {
	if len(data) > maxFile {
		return nil, fmt.Errorf("the file has %d bytes, more than %d", len(data), maxFile)
	}
	if !utf8.Valid(data) {
		return nil, errors.New("read TOML: the file is not in UTF-8")
	}
	p := unstable.Parser{KeepComments: true}
	p.Reset(data)
	var exprs []expr
	for p.NextExpression() {
		node := p.Expression()
		e := expr{kind: node.Kind, end: len(data)}
		offset := -1
		if node.Kind == unstable.Comment {
			offset = int(node.Raw.Offset)
		} else {
			for it := node.Key(); it.Next(); {
				if offset < 0 {
					offset = int(it.Node().Raw.Offset)
				}
				e.key = append(e.key, string(it.Node().Data))
			}
		}
		e.start = bytes.LastIndexByte(data[:offset], '\n') + 1
		if len(exprs) > 0 {
			exprs[len(exprs)-1].end = e.start
		}
		exprs = append(exprs, e)
	}
	if err := p.Error(); err != nil {
		return nil, fmt.Errorf("read TOML: %w", err)
	}
	return exprs, nil
}

// is says that the expression is this comment.
func (e expr) is(data []byte, comment string) bool {
	return e.kind == unstable.Comment && string(bytes.TrimSpace(data[e.start:e.lineEnd(data)])) == comment
}

// lineEnd gives where the line after the expression's first one starts.
func (e expr) lineEnd(data []byte) int {
	if i := bytes.IndexByte(data[e.start:e.end], '\n'); i >= 0 {
		return e.start + i + 1
	}
	return e.end
}

func (e expr) isTable() bool { return e.kind == unstable.Table || e.kind == unstable.ArrayTable }
