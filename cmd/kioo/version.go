package main

import (
	"encoding/json"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is set by the linker when a release is built: -X main.version=v1.2.3.
var version string

// build is what this binary is made of.
type build struct {
	Version   string `json:"version"`
	Revision  string `json:"revision,omitempty"`
	GoVersion string `json:"goVersion"`
	Platform  string `json:"platform"`
}

func readBuild() build {
	b := build{Version: version, GoVersion: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		info = new(debug.BuildInfo)
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			b.Revision = s.Value
		}
	}
	if b.Version == "" {
		b.Version = info.Main.Version // Set by go install module@version, and from tags of a checkout.
	}
	if b.Version == "" || b.Version == "(devel)" {
		b.Version = "devel"
	}
	return b
}

func newVersion(s streams) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print which version this is",
		Long:  "Version prints the version, the revision it was built from, Go's version and the platform.",
		Example: `  kioo version
  kioo version -o json | jq -r .version`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			b := readBuild()
			switch output {
			case "text":
				if b.Revision != "" {
					b.Revision = " revision " + b.Revision
				}
				_, err := fmt.Fprintf(s.out, "kioo %s%s %s %s\n", b.Version, b.Revision, b.GoVersion, b.Platform)
				return err
			case "json":
				enc := json.NewEncoder(s.out)
				enc.SetIndent("", "  ")
				return enc.Encode(b)
			}
			return &usageError{command: cmd.CommandPath(), err: fmt.Errorf("--output is %q, expected text or json", output)}
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "text", "print as text or json")
	return cmd
}
