package config

import (
	"fmt"
	"reflect"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// decoder fills a Config from a YAML document. It goes only where the Config has fields, so neither deep nor
// self-referring documents cost more than their parsing did.
type decoder struct {
	report
	// lines holds the line of every field that the document has.
	lines map[string]int
	// settled holds the fields about which everything is said, so that validation does not add to it.
	settled map[string]bool
}

func newDecoder() *decoder {
	return &decoder{lines: make(map[string]int), settled: make(map[string]bool)}
}

// line gives the line of a field, or of the closest one around it that the document has.
func (d *decoder) line(field string) int {
	for ; field != ""; field = parent(field) {
		if line, ok := d.lines[field]; ok {
			return line
		}
	}
	return 1
}

// said tells whether everything is said about a field, or about one around it.
func (d *decoder) said(field string) bool {
	for ; field != ""; field = parent(field) {
		if d.settled[field] {
			return true
		}
	}
	return false
}

// parent gives the field around a field: of a.b[0] that is a.b, and of a it is the file.
func parent(field string) string { return field[:max(0, strings.LastIndexAny(field, ".["))] }

func (d *decoder) wrong(n *yaml.Node, path, format string, args ...any) {
	d.settled[path] = true
	d.add(n.Line, path, format, args...)
}

func (d *decoder) value(n *yaml.Node, path string, v reflect.Value) {
	if n.Kind == yaml.AliasNode || n.Anchor != "" {
		d.wrong(n, path, "anchors and aliases are not supported, write the value out")
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		d.section(n, path, v)
	case reflect.Slice:
		d.list(n, path, v)
	default:
		if err := scalar(n, v); err != nil {
			d.wrong(n, path, "%v", err)
		}
	}
}

// section decodes a mapping. One that is empty but for comments leaves all fields at their defaults.
func (d *decoder) section(n *yaml.Node, path string, v reflect.Value) {
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" {
		return
	}
	if n.Kind != yaml.MappingNode || n.ShortTag() != "!!map" {
		d.wrong(n, path, "is %s, not a mapping of fields", describe(n))
		return
	}
	byName, _ := fields(v.Type())
	seen := make(map[string]int)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Kind != yaml.ScalarNode || key.Anchor != "" {
			d.add(key.Line, path, "has %s where a field's name should be", describe(key))
			continue
		}
		field := join(path, printable(key.Value))
		if first, ok := seen[key.Value]; ok {
			d.add(key.Line, field, "given twice, first on line %d", first)
			continue
		}
		seen[key.Value] = key.Line
		index, ok := byName[key.Value]
		if !ok {
			d.unknown(key, field, path, v.Type())
			continue
		}
		d.lines[field] = key.Line
		d.value(value, field, v.Field(index))
	}
}

func (d *decoder) unknown(key *yaml.Node, field, path string, section reflect.Type) {
	if d.full() { // Looking for close names is dear, and nobody will read them.
		d.more++
		return
	}
	message, meant := unknownField(key.Value, section)
	d.add(key.Line, field, "%s", message)
	if meant != "" {
		d.settled[join(path, meant)] = true
	}
}

func (d *decoder) list(n *yaml.Node, path string, v reflect.Value) {
	if n.Kind != yaml.SequenceNode || n.ShortTag() != "!!seq" {
		d.wrong(n, path, "is %s, not a list", describe(n))
		return
	}
	if len(n.Content) > maxListLength {
		d.wrong(n, path, "has %d entries, more than %d", len(n.Content), maxListLength)
		return
	}
	list := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
	for i, entry := range n.Content {
		switch entry := list.Index(i).Addr().Interface().(type) {
		case *Registry:
			*entry = DefaultRegistry()
			entry.Match = "" // A rule has to say itself what it is for.
		case *TagRule:
			*entry = DefaultTagRule()
			entry.Match = ""
		case *Endpoint:
			*entry = DefaultEndpoint()
		case *EventEndpoint:
			*entry = DefaultEventEndpoint()
		}
		at := fmt.Sprintf("%s[%d]", path, i)
		d.lines[at] = entry.Line
		d.value(entry, at, list.Index(i))
	}
	v.Set(list)
}

// scalar decodes one value. The document's type must be the field's: YAML's guesses about unquoted words are how a
// version becomes a number and a country a boolean.
func scalar(n *yaml.Node, v reflect.Value) error {
	tag := n.ShortTag()
	if n.Kind == yaml.ScalarNode && tag == "!!null" {
		return fmt.Errorf(`has no value: leave the field out for its default, or write "" for an empty string`)
	}
	number := tag == "!!int" || tag == "!!float"
	switch target := v.Addr().Interface().(type) {
	case *time.Duration:
		if n.Kind != yaml.ScalarNode || tag != "!!str" && !number {
			return fmt.Errorf("is %s, not a duration such as 30s or 5m", describe(n))
		}
		duration, err := time.ParseDuration(n.Value)
		if err != nil {
			return fmt.Errorf("is %s, not a duration with its unit, such as 30s or 5m", quote(n.Value))
		}
		*target = duration
	case *Bytes:
		if n.Kind != yaml.ScalarNode || tag != "!!str" && !number {
			return fmt.Errorf("is %s, not a number of bytes such as 20Gi or 500M", describe(n))
		}
		bytes, err := parseBytes(n.Value)
		if err != nil {
			return err
		}
		*target = bytes
	case *string:
		if n.Kind != yaml.ScalarNode || tag != "!!str" {
			return fmt.Errorf("is %s, not a string%s", describe(n), hint(n))
		}
		*target = n.Value
	case *bool:
		if n.Kind != yaml.ScalarNode || tag != "!!bool" || n.Decode(target) != nil {
			return fmt.Errorf("is %s, not true or false", describe(n))
		}
	case *int:
		if n.Kind != yaml.ScalarNode || tag != "!!int" || n.Decode(target) != nil {
			return fmt.Errorf("is %s, not a whole number in range", describe(n))
		}
	default:
		return fmt.Errorf("has no decoder for %s", v.Type())
	}
	return nil
}

func hint(n *yaml.Node) string {
	if n.Kind == yaml.ScalarNode {
		return ": put it in quotes"
	}
	return ""
}

// describe says what a document has in a place.
func describe(n *yaml.Node) string {
	if tag := n.ShortTag(); n.Style&yaml.TaggedStyle != 0 && !strings.HasPrefix(tag, "!!") {
		return "a value with the tag " + printable(tag)
	}
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.ScalarNode:
		switch n.ShortTag() {
		case "!!null":
			return "nothing"
		case "!!str":
			return "the string " + quote(n.Value)
		case "!!int", "!!float":
			return "the number " + printable(n.Value)
		case "!!bool":
			return "the boolean " + printable(n.Value)
		}
	}
	return "a value that is not supported"
}

// printable makes a name from the file safe and short enough for a message, without quotes where it needs none.
func printable(s string) string {
	if q := quote(s); len(q) != len(s)+2 {
		return q
	}
	return s
}
