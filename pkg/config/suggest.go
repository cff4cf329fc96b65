package config

import (
	"reflect"
	"slices"
	"strings"
)

// maxNameLength is the length beyond which nothing is a misspelling of a field's name.
const maxNameLength = 40

// fields gives a section's fields by their names in the file, and the names in order.
func fields(t reflect.Type) (map[string]int, []string) {
	byName := make(map[string]int, t.NumField())
	names := make([]string, 0, t.NumField())
	for i := range t.NumField() {
		name := t.Field(i).Tag.Get("yaml")
		byName[name] = i
		names = append(names, name)
	}
	return byName, names
}

// closest gives the name that a misspelled one probably means, empty if none is close.
func closest(name string, names []string) string {
	if len(name) > maxNameLength {
		return ""
	}
	best, least := "", 0
	for _, n := range names {
		d := distance(strings.ToLower(name), strings.ToLower(n))
		if d <= max(1, min(len(name), len(n))/3) && (best == "" || d < least) {
			best, least = n, d
		}
	}
	return best
}

// distance is how many characters have to be inserted, deleted, replaced or swapped with their neighbour to make one
// name of the other (optimal string alignment). Swapped letters are the commonest slip, so they count once.
func distance(a, b string) int {
	from, to := []rune(a), []rune(b)
	rows := make([][]int, len(from)+1) // rows[i][j] is the distance between the first i of from and the first j of to.
	for i := range rows {
		rows[i] = make([]int, len(to)+1)
		for j := range rows[i] {
			if i == 0 || j == 0 {
				rows[i][j] = i + j
				continue
			}
			replaced := rows[i-1][j-1]
			if from[i-1] != to[j-1] {
				replaced++
			}
			rows[i][j] = min(replaced, rows[i-1][j]+1, rows[i][j-1]+1)
			if i > 1 && j > 1 && from[i-1] == to[j-2] && from[i-2] == to[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(from)][len(to)]
}

// unknownField says what a field that a section does not have probably means: another field of it, else a field of
// that name elsewhere in the file (an indentation that went wrong), else it says what there is.
func unknownField(name string, section reflect.Type) (message, meant string) {
	_, names := fields(section)
	if meant = closest(name, names); meant != "" {
		return "unknown field, did you mean " + quote(meant) + "?", meant
	}
	if places := elsewhere(name, reflect.TypeFor[Config](), ""); len(places) > 0 {
		return "unknown field here, did you mean " + strings.Join(places, " or ") + "?", ""
	}
	return "unknown field, known here are " + strings.Join(names, ", "), ""
}

// elsewhere gives the paths of all fields of that name.
func elsewhere(name string, section reflect.Type, path string) []string {
	var places []string
	byName, names := fields(section)
	for _, n := range names {
		at := join(path, n)
		if n == name {
			places = append(places, at)
		}
		t := section.Field(byName[n]).Type
		if t.Kind() == reflect.Slice {
			t, at = t.Elem(), at+"[]"
		}
		if t.Kind() == reflect.Struct {
			places = append(places, elsewhere(name, t, at)...)
		}
	}
	return places
}

// oneOf says what is wrong with a value that should be one of a few, if anything.
func oneOf(value string, allowed ...string) string {
	if slices.Contains(allowed, value) {
		return ""
	}
	if meant := closest(value, allowed); meant != "" {
		return "is " + quote(value) + ", did you mean " + quote(meant) + "?"
	}
	return "is " + quote(value) + ", not one of " + strings.Join(allowed, ", ")
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}
