package config

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// maxProblems bounds a report: a file that is wrong everywhere was meant for another program.
const maxProblems = 50

// Problem is one thing that is wrong with a configuration.
type Problem struct {
	// Line is the line of the file, from 1; 0 where there is no file.
	Line int
	// Field is the path of the field, such as registries[0].endpoints[1].url; empty for the file as a whole.
	Field string
	// Message says what is wrong and what would be right.
	Message string
}

// Error is everything that is wrong with a configuration, in the order of the file.
type Error struct {
	// File is the file's name; empty where there is no file.
	File string
	// Problems holds at least one and at most 50 problems.
	Problems []Problem
	// More is how many further problems there are.
	More int
}

// Error gives one line for each problem: "kioo.yaml:3: mirror.listen[0]: …".
func (e *Error) Error() string {
	lines := make([]string, 0, len(e.Problems)+1)
	for _, p := range e.Problems {
		var place []string
		switch {
		case e.File != "" && p.Line > 0:
			place = append(place, e.File+":"+strconv.Itoa(p.Line))
		case e.File != "":
			place = append(place, e.File)
		}
		if p.Field != "" {
			place = append(place, p.Field)
		}
		lines = append(lines, strings.Join(append(place, p.Message), ": "))
	}
	if e.More > 0 {
		lines = append(lines, fmt.Sprintf("and %d more problems", e.More))
	}
	return strings.Join(lines, "\n")
}

// report collects problems.
type report struct {
	problems []Problem
	more     int
}

func (r *report) full() bool { return len(r.problems) >= maxProblems }

func (r *report) add(line int, field, format string, args ...any) {
	if r.full() {
		r.more++
		return
	}
	r.problems = append(r.problems, Problem{Line: line, Field: field, Message: fmt.Sprintf(format, args...)})
}

// err gives the report as an error, or nil if there is nothing to report.
func (r *report) err(file string) error {
	if len(r.problems) == 0 {
		return nil
	}
	slices.SortStableFunc(r.problems, func(a, b Problem) int { return cmp.Compare(a.Line, b.Line) })
	return &Error{File: file, Problems: r.problems, More: r.more}
}

// quote makes a value from the file safe and short enough for a message.
func quote(s string) string {
	const most = 80
	if len(s) > most {
		return strconv.QuoteToASCII(s[:most]) + "…"
	}
	return strconv.QuoteToASCII(s)
}
