package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// The two ends of a link between namespaces. The addresses exist there alone.
const (
	nearAddr = "10.78.0.1"
	farAddr  = "10.78.0.2"
)

// link joins two machines: this end, where the bench itself is, and the far one.
type link struct {
	// kind says what it is, for people.
	kind string
	// near and far are the two ends' addresses.
	near, far string
	// wrapper is the command that runs another one at the far end; empty where that is here.
	wrapper []string

	namespace *os.File // Keeps the far end; nil where that is here.
}

// loopbackLink has both ends here.
func loopbackLink() *link { return &link{kind: "loopback", near: "127.0.0.1", far: "127.0.0.1"} }

// newLink makes a second namespace and joins it to this process's by a veth pair, as fast as the machine.
func newLink(ctx context.Context) (_ *link, err error) {
	l := &link{kind: "a veth pair between two network namespaces", near: nearAddr, far: farAddr}
	if l.namespace, err = newNamespace(); err != nil {
		return nil, fmt.Errorf("make a second network namespace: %w", err)
	}
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	path := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), l.namespace.Fd())
	l.wrapper = []string{"nsenter", "--net=" + path}
	if err := tool(ctx, "ip", "link", "add", "near", "type", "veth", "peer", "name", "far", "netns", path); err != nil {
		return nil, err
	}
	at := append(l.wrapper[1:], "ip")
	for _, line := range []string{"addr add " + farAddr + "/24 dev far", "link set lo up", "link set far up"} {
		if err := tool(ctx, l.wrapper[0], append(at[:len(at):len(at)], strings.Fields(line)...)...); err != nil {
			return nil, err
		}
	}
	for _, line := range []string{"addr add " + nearAddr + "/24 dev near", "link set near up"} {
		if err := tool(ctx, "ip", strings.Fields(line)...); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// newNamespace makes a network namespace that lives as long as its file is open, and what runs in it.
func newNamespace() (*os.File, error) {
	type result struct {
		file *os.File
		err  error
	}
	made := make(chan result)
	go func() {
		runtime.LockOSThread() // For good: the thread is of no use to others any more, and ends with the goroutine.
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			made <- result{err: err}
			return
		}
		file, err := os.Open("/proc/thread-self/ns/net")
		made <- result{file, err}
	}()
	r := <-made
	return r.file, r.err
}

func (l *link) close() {
	if l.namespace != nil {
		_ = l.namespace.Close() // It was only read.
	}
}

// freePorts finds ports that nobody uses at this end of a link. They are as free at the far end, which has
// no more than we start.
func freePorts(n int) ([]string, error) {
	var ports []string
	for range n {
		listener, err := net.Listen("tcp", ":0")
		if err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		defer listener.Close() // Not before the others are found: the kernel likes to give the same one again.
		_, port, err := net.SplitHostPort(listener.Addr().String())
		if err != nil {
			return nil, err
		}
		ports = append(ports, port)
	}
	return ports, nil
}

// farProgram writes a program into dir that runs another one at the far end, under the same process id.
func (l *link) farProgram(dir, program string) (string, error) {
	if len(l.wrapper) == 0 {
		return program, nil
	}
	if strings.ContainsRune(program, '\'') {
		return "", errors.New("a program with a quote in its name: " + program)
	}
	path := filepath.Join(dir, "far-"+filepath.Base(program))
	script := fmt.Sprintf("#!/bin/sh\nexec %s '%s' \"$@\"\n", strings.Join(l.wrapper, " "), program)
	return path, os.WriteFile(path, []byte(script), 0o700)
}

// link makes the link that a comparison runs over: between namespaces if the bench is in one of its own.
func (b *bench) link(ctx context.Context) (*link, error) {
	if b.inside == "" {
		return loopbackLink(), nil
	}
	return newLink(ctx)
}
