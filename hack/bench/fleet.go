package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/kioo-dev/kioo/hack/kiootest"
	"github.com/kioo-dev/kioo/pkg/config"
	"github.com/kioo-dev/kioo/pkg/peer"
)

const (
	// meetTime bounds how long two members may take to find each other.
	meetTime = 30 * time.Second
	// nobody is an upstream that refuses every connection.
	nobody = "http://127.0.0.1:1"
)

// fleet is two members: the holder at the far end of a link and the receiver at this one.
type fleet struct {
	link    *link
	dir     string
	program string
	farProg string // The same, as the holder runs it at the far end.
	key     string // The cluster key's file.
	holder  string // Where the holder's DHT listens.
}

func newFleet(l *link, dir, program string) (*fleet, error) {
	f := &fleet{link: l, dir: dir, program: program, key: filepath.Join(dir, "cluster.key")}
	if err := os.WriteFile(f.key, []byte(peer.NewKey().String()+"\n"), 0o600); err != nil {
		return nil, err
	}
	if err := os.Mkdir(f.holderDir(), 0o700); err != nil {
		return nil, err
	}
	var err error
	f.farProg, err = l.farProgram(dir, program)
	return f, err
}

func (f *fleet) holderDir() string   { return filepath.Join(f.dir, "holder") }
func (f *fleet) receiverDir() string { return filepath.Join(f.dir, "receiver") }

// config is a member's at an end of the link, with these ports for other members.
func (f *fleet) config(dir, addr string, ports []string) *config.Config {
	cfg := kiootest.Config(dir, map[string]string{registryName: nobody})
	cfg.Peers.KeyFiles = []string{f.key}
	cfg.Peers.Listen = []string{net.JoinHostPort(addr, ports[0])}
	cfg.Discovery.Listen = []string{net.JoinHostPort(addr, ports[1])}
	return cfg
}

// startHolder runs the member that holds what is there already.
func (f *fleet) startHolder(ctx context.Context) (*kiootest.Kioo, error) {
	ports, err := freePorts(3)
	if err != nil {
		return nil, err
	}
	cfg := f.config(f.holderDir(), f.link.far, ports)
	f.holder = cfg.Discovery.Listen[0]
	// So that it can be seen from here that it runs. Nobody else is on the link.
	cfg.Mirror.Listen, cfg.Mirror.AllowRemote = []string{net.JoinHostPort(f.link.far, ports[2])}, true
	return kiootest.Start(ctx, f.farProg, f.holderDir(), cfg)
}

// startReceiver runs a member of that program that holds nothing, and returns when it knows the holder.
func (f *fleet) startReceiver(ctx context.Context, program string) (*kiootest.Kioo, error) {
	if err := os.RemoveAll(f.receiverDir()); err != nil {
		return nil, err
	}
	if err := os.Mkdir(f.receiverDir(), 0o700); err != nil {
		return nil, err
	}
	ports, err := freePorts(4)
	if err != nil {
		return nil, err
	}
	cfg := f.config(f.receiverDir(), f.link.near, ports)
	cfg.Discovery.Bootstrap.Addresses = []string{f.holder}
	cfg.Mirror.Listen = []string{net.JoinHostPort("127.0.0.1", ports[2])}
	cfg.Metrics.Listen = net.JoinHostPort("127.0.0.1", ports[3])
	if program != f.program {
		cfg.Health = config.Default().Health // So that it is not written: earlier versions have none.
	}
	kioo, err := kiootest.Start(ctx, program, f.receiverDir(), cfg)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, meetTime)
	defer cancel()
	if err := kioo.WaitReady(ctx, func() bool { return knowsOne(ctx, cfg.Metrics.Listen) }); err != nil {
		stopKioo(kioo)
		return nil, fmt.Errorf("wait until a member knows the other: %w", err)
	}
	return kioo, nil
}

// knowsOne tells whether the member whose metrics are there knows one other that lives.
func knowsOne(ctx context.Context, metrics string) bool {
	text, err := get(ctx, "http://"+metrics+"/metrics")
	return err == nil && strings.Contains(string(text), "\nkioo_discovery_members{state=\"live\"} 1\n")
}
