package config

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// maxNamedFile bounds the files that a configuration names. A bundle of all public authorities has 250 KiB.
const maxNamedFile = 4 << 20

// absolute makes all paths absolute: those that are not start at base.
func (c *Config) absolute(base string) {
	r := &c.Containerd
	r.Address = strings.TrimPrefix(r.Address, "unix://")
	paths := []*string{
		&c.DataDir, &c.Control.Socket, &c.Credentials.DockerConfig, &r.Address, &r.ContentDir, &r.CertsDir, &r.ConfigFile, &c.Kubernetes.Kubeconfig,
	}
	for i := range c.Peers.KeyFiles {
		paths = append(paths, &c.Peers.KeyFiles[i])
	}
	for i := range c.Registries {
		for j := range c.Registries[i].Endpoints {
			e := &c.Registries[i].Endpoints[j]
			paths = append(paths, &e.CAFile, &e.ClientCertFile, &e.ClientKeyFile)
		}
	}
	for i := range c.Events.Endpoints {
		e := &c.Events.Endpoints[i]
		paths = append(paths, &e.AuthorizationFile, &e.CAFile)
	}
	for _, p := range paths {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(base, *p)
		}
	}
}

// unusable finds the files that the configuration names and that can't be used. Better the start stops than a pull
// next week.
func (c *Config) unusable() []Problem {
	v := new(validation)
	if path := c.Credentials.DockerConfig; path != "" {
		data, err := readCredentials(path)
		if err == nil && !json.Valid(data) {
			err = fmt.Errorf("%s is not JSON", path)
		}
		v.unusable("credentials.dockerConfig", err)
	}
	for i, file := range c.Peers.KeyFiles {
		if file != "" {
			_, err := readNamed(file) // What it holds is for peer to know.
			v.unusable(fmt.Sprintf("peers.keyFiles[%d]", i), err)
		}
	}
	for i, r := range c.Registries {
		for j, e := range r.Endpoints {
			e.unusable(v, fmt.Sprintf("registries[%d].endpoints[%d]", i, j))
		}
	}
	for i, e := range c.Events.Endpoints {
		field := fmt.Sprintf("events.endpoints[%d]", i)
		if e.AuthorizationFile != "" {
			_, err := readNamed(e.AuthorizationFile)
			v.unusable(field+".authorizationFile", err)
		}
		v.authorities(field, e.CAFile)
	}
	return v.problems
}

// authorities looks for certificates in a field's caFile, if it has one.
func (v *validation) authorities(field, file string) {
	if file == "" {
		return
	}
	data, err := readNamed(file)
	if err == nil && !x509.NewCertPool().AppendCertsFromPEM(data) {
		err = fmt.Errorf("%s holds no PEM certificate", file)
	}
	v.unusable(field+".caFile", err)
}

func (v *validation) unusable(field string, err error) {
	if err != nil {
		v.add(field, "%v", err)
	}
}

func (e *Endpoint) unusable(v *validation, field string) {
	v.authorities(field, e.CAFile)
	if e.ClientCertFile == "" || e.ClientKeyFile == "" {
		return
	}
	cert, certErr := readNamed(e.ClientCertFile)
	key, keyErr := readNamed(e.ClientKeyFile)
	v.unusable(field+".clientCertFile", certErr)
	v.unusable(field+".clientKeyFile", keyErr)
	if certErr != nil || keyErr != nil {
		return
	}
	if _, err := tls.X509KeyPair(cert, key); err != nil {
		v.add(field+".clientCertFile", "%s and %s do not make a pair: %v", e.ClientCertFile, e.ClientKeyFile, err)
	}
}

// readCredentials reads a file, or the one of a directory where a Secret is mounted.
func readCredentials(path string) ([]byte, error) {
	if info, err := os.Stat(path); err != nil || !info.IsDir() {
		return readNamed(path)
	}
	names := []string{".dockerconfigjson", "config.json", ".dockercfg"} // As package upstream looks for them.
	for _, name := range names {
		if data, err := readNamed(filepath.Join(path, name)); !errors.Is(err, fs.ErrNotExist) {
			return data, err
		}
	}
	return nil, fmt.Errorf("%s has none of %s", path, strings.Join(names, ", "))
}

// readNamed reads a file that the configuration names. Only regular files: reading a pipe could wait for ever.
func readNamed(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxNamedFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxNamedFile {
		return nil, errors.New(path + " is larger than a file of its kind can be")
	}
	return data, nil
}
