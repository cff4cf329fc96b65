package main

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strings"

	spdxjson "github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx"
)

const (
	ours   = "github.com/kioo-dev/kioo"
	home   = "https://" + ours
	owner  = "kioo-dev"
	unsaid = "NOASSERTION" // As SPDX has it.
)

// module is a module that a binary is linked with; Go's standard library counts as one.
type module struct{ path, version, sum string }

// modules gives what the linker wrote into a binary. It is what is in there, rather than what go.mod allows.
func modules(info *debug.BuildInfo) []module {
	all := []module{{"stdlib", strings.TrimPrefix(info.GoVersion, "go"), ""}}
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		all = append(all, module{m.Path, m.Version, m.Sum})
	}
	return all
}

// purl names a Go module as vulnerability databases do.
func purl(path, version string) string {
	return "pkg:golang/" + path + "@" + url.QueryEscape(version)
}

// notInID is what identifiers in SPDX may not have.
var notInID = regexp.MustCompile(`[^A-Za-z0-9.-]+`)

func (m module) id() spdx.ElementID {
	return spdx.ElementID("Package-" + notInID.ReplaceAllString(m.path+"-"+m.version, "-"))
}

func (m module) packaged() *spdx.Package {
	p := newPackage(m.path, m.version)
	p.PackageSPDXIdentifier = m.id()
	p.PrimaryPackagePurpose = "LIBRARY"
	p.PackageDownloadLocation = "https://" + m.path
	if m.path == "stdlib" {
		p.PackageDownloadLocation = "https://go.dev/dl/go" + m.version + ".src.tar.gz"
	}
	if m.sum != "" {
		p.PackageSourceInfo = "go.sum has " + m.sum
	}
	return p
}

func newPackage(name, version string) *spdx.Package {
	return &spdx.Package{
		PackageName:             name,
		PackageVersion:          version,
		PackageSupplier:         &spdx.Supplier{Supplier: unsaid},
		PackageLicenseConcluded: unsaid,
		PackageLicenseDeclared:  unsaid,
		PackageCopyrightText:    unsaid,
		PackageExternalReferences: []*spdx.PackageExternalReference{
			{Category: spdx.CategoryPackageManager, RefType: spdx.PackageManagerPURL, Locator: purl(name, version)},
		},
	}
}

// writeSBOM says what a binary is made of.
func (cfg config) writeSBOM(b binary) error {
	data, err := os.ReadFile(b.path)
	if err != nil {
		return err
	}
	info, err := buildinfo.Read(bytes.NewReader(data))
	if err != nil {
		return err
	}
	digest := fmt.Sprintf("%x", sha256.Sum256(data))
	main := newPackage(ours, cfg.version)
	main.PackageSPDXIdentifier = "Package-kioo"
	main.PackageFileName = program
	main.PackageDownloadLocation = home + "/releases/download/" + cfg.version + "/" + cfg.archive(b)
	main.PackageSupplier = &spdx.Supplier{SupplierType: "Organization", Supplier: owner}
	main.PackageHomePage = home
	main.PackageLicenseConcluded, main.PackageLicenseDeclared = "Apache-2.0", "Apache-2.0"
	main.PackageChecksums = []spdx.Checksum{{Algorithm: spdx.SHA256, Value: digest}}
	main.PrimaryPackagePurpose = "APPLICATION"
	doc := &spdx.Document{
		SPDXVersion:       spdx.Version,
		DataLicense:       spdx.DataLicense,
		SPDXIdentifier:    "DOCUMENT",
		DocumentName:      cfg.name(b),
		DocumentNamespace: home + "/spdx/" + cfg.name(b) + "-" + digest, // Another binary has another one.
		CreationInfo: &spdx.CreationInfo{
			Creators: []spdx.Creator{{CreatorType: "Organization", Creator: owner}, {CreatorType: "Tool", Creator: "kioo-release"}},
			Created:  cfg.date.UTC().Format("2006-01-02T15:04:05Z"),
		},
		Packages:      []*spdx.Package{main},
		Relationships: []*spdx.Relationship{related("DOCUMENT", "DESCRIBES", main.PackageSPDXIdentifier)},
	}
	for _, m := range modules(info) {
		p := m.packaged()
		doc.Packages = append(doc.Packages, p)
		doc.Relationships = append(doc.Relationships, related(main.PackageSPDXIdentifier, "DEPENDS_ON", p.PackageSPDXIdentifier))
	}
	var out bytes.Buffer
	if err := spdxjson.Write(doc, &out, spdxjson.Indent("  ")); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(cfg.dir, cfg.sbom(b)), out.Bytes(), 0o644)
}

func related(a spdx.ElementID, how string, b spdx.ElementID) *spdx.Relationship {
	return &spdx.Relationship{RefA: spdx.DocElementID{ElementRefID: a}, RefB: spdx.DocElementID{ElementRefID: b}, Relationship: how}
}
