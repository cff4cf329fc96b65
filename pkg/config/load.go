package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"

	"go.yaml.in/yaml/v3"
)

const (
	// maxFileSize bounds a configuration file. Ten thousand registries fit.
	maxFileSize = 1 << 20
	// maxListLength bounds every list in a file.
	maxListLength = 1024
)

// Load reads a configuration file and checks that the files it names can be used. What is wrong with the
// configuration comes as *Error. The fields named last, such as peers.listen, are those that the caller sets later:
// what is wrong with them in the file is left for Validate to find, or to find mended.
func Load(path string, later ...string) (*Config, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open configuration: %w", err)
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxFileSize+1))
	if err != nil {
		return nil, fmt.Errorf("read configuration %s: %w", path, err)
	}
	return parse(path, data, true, later...)
}

// Parse reads a configuration from memory. The name stands for the file in errors, and its directory is where paths
// that are not absolute start. Files that the configuration names are not looked at. What is wrong with the
// configuration comes as *Error.
func Parse(name string, data []byte) (*Config, error) { return parse(name, data, false) }

func parse(name string, data []byte, checkFiles bool, later ...string) (*Config, error) {
	d := newDecoder()
	for _, field := range later {
		d.settled[field] = true
	}
	c := Default()
	if root := d.document(data); root != nil {
		c.APIVersion, c.Kind = "", "" // A file has to say these itself.
		d.value(root, "", reflect.ValueOf(c).Elem())
		base, err := filepath.Abs(filepath.Dir(name))
		if err != nil {
			return nil, fmt.Errorf("find the directory of configuration %s: %w", name, err)
		}
		c.absolute(base)
		problems := c.validate()
		if checkFiles {
			problems = append(problems, c.unusable()...)
		}
		for _, p := range problems {
			if !d.said(p.Field) {
				d.add(d.line(p.Field), p.Field, "%s", p.Message)
			}
		}
	}
	if err := d.err(name); err != nil {
		return nil, err
	}
	return c, nil
}

// Validate says what is wrong with a configuration that did not come from a file, or was changed since. The error is
// an *Error. Files that the configuration names are not looked at.
func (c *Config) Validate() error {
	var r report
	for _, p := range c.validate() {
		r.add(0, p.Field, "%s", p.Message)
	}
	return r.err("")
}

var (
	yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)$`)
	// yamlStructure are the messages that the YAML library numbers from line 0, those of its parser; it numbers the
	// others, its scanner's, from 1.
	yamlStructure = regexp.MustCompile(`^did not find expected (<.*>|node content|key|',' or '[\]}]'|'-' indicator)`)
)

// document gives the only document of a file, or nil when there is none to decode.
func (d *decoder) document(data []byte) *yaml.Node {
	if len(data) > maxFileSize {
		d.add(0, "", "is larger than %d bytes, the most that a configuration may have", maxFileSize)
		return nil
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var first, second yaml.Node
	err := dec.Decode(&first)
	switch {
	case errors.Is(err, io.EOF):
		d.add(1, "", "is empty, expected apiVersion: %s and kind: %s", APIVersion, Kind)
		return nil
	case err != nil:
		d.syntax(err)
		return nil
	}
	switch err := dec.Decode(&second); {
	case err == nil:
		d.add(second.Line, "", "has a second document, expected one")
	case !errors.Is(err, io.EOF):
		d.syntax(err)
		return nil
	}
	if len(first.Content) != 1 || first.Content[0].Kind != yaml.MappingNode {
		d.add(max(1, first.Line), "", "is not a mapping of fields, expected apiVersion: %s and kind: %s", APIVersion, Kind)
		return nil
	}
	return first.Content[0]
}

// syntax reports what the YAML parser says, with its line where an editor would look for it.
func (d *decoder) syntax(err error) {
	m := yamlLine.FindStringSubmatch(err.Error())
	if m == nil {
		d.add(0, "", "is not valid YAML: %v", err)
		return
	}
	line, _ := strconv.Atoi(m[1]) // Without a number it is 0, which is right.
	if m[1] != "" && yamlStructure.MatchString(m[2]) {
		line++
	}
	d.add(line, "", "is not valid YAML: %s", m[2])
}
