package daemon

import (
	"fmt"
	"net"
)

// watching is where the mirror is watched and told what to do. Nil ones are off.
type watching struct {
	metrics net.Listener // For monitors, which may be anywhere.
	health  net.Listener // For who starts the mirror again.
	control net.Listener // For people on this machine; never nil once it is open.
}

// all gives the listeners that there are.
func (w *watching) all() (all []net.Listener) {
	for _, l := range []net.Listener{w.metrics, w.health, w.control} {
		if l != nil {
			all = append(all, l)
		}
	}
	return all
}

// listen opens all listeners but those for other members. It comes after the data directory is locked.
func (d *Daemon) listen() (err error) {
	for _, address := range d.cfg.Mirror.Listen {
		l, err := net.Listen("tcp", address)
		if err != nil {
			return fmt.Errorf("mirror.listen: %w", err)
		}
		d.listeners = append(d.listeners, l)
	}
	for _, tcp := range []struct {
		field, address string
		into           *net.Listener
	}{
		{"metrics.listen", d.cfg.Metrics.Listen, &d.watching.metrics},
		{"health.listen", d.cfg.Health.Listen, &d.watching.health},
	} {
		if tcp.address == "" {
			continue
		}
		if *tcp.into, err = net.Listen("tcp", tcp.address); err != nil {
			return fmt.Errorf("%s: %w", tcp.field, err)
		}
	}
	socket, err := listenControl(d.cfg.ControlSocket())
	if err != nil {
		return fmt.Errorf("control.socket: %w", err)
	}
	d.watching.control = socket
	return nil
}

// Addrs gives the addresses that the mirror listens on.
func (d *Daemon) Addrs() []net.Addr {
	var addrs []net.Addr
	for _, l := range d.listeners {
		addrs = append(addrs, l.Addr())
	}
	return addrs
}

// MetricsAddr gives the address of metrics, nil if they are off.
func (d *Daemon) MetricsAddr() net.Addr { return addrOf(d.watching.metrics) }

// HealthAddr gives the address of health, nil if it is off.
func (d *Daemon) HealthAddr() net.Addr { return addrOf(d.watching.health) }

func addrOf(l net.Listener) net.Addr {
	if l == nil {
		return nil
	}
	return l.Addr()
}
