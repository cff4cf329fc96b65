package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/kioo-dev/kioo/hack/process"
	"github.com/kioo-dev/kioo/hack/registrytest"
)

const peerName = "blob from a peer"

// peer compares a node that gets a large blob from one other member, and gives it to its client meanwhile, with
// curl fetching the same file from nginx over the same link.
func (b *bench) peer(ctx context.Context) ([]row, error) {
	_, noNginx := findNginx()
	_, noCurl := findCurl()
	if err := errors.Join(noNginx, noCurl); err != nil {
		return []row{{Name: peerName, Unit: "MB/s", Note: err.Error()}}, nil
	}
	if why := noNamespace("ip", "nsenter"); why != "" {
		b.say("%s: over loopback, for the namespaces of a link: %s", peerName, why)
		return b.peerHere(ctx)
	}
	return b.inNamespace(ctx, "peer")
}

// peerHere runs at one end of the link.
func (b *bench) peerHere(ctx context.Context) ([]row, error) {
	link, err := b.link(ctx)
	if err != nil {
		return nil, err
	}
	defer link.close()
	dir, err := b.mkdir("peer")
	if err != nil {
		return nil, err
	}
	f, err := newFleet(link, dir, b.program)
	if err != nil {
		return nil, err
	}
	blob, err := b.fill(ctx, f)
	if err != nil {
		return nil, err
	}
	holder, err := f.startHolder(ctx)
	if err != nil {
		return nil, err
	}
	defer stopKioo(holder)
	file, err := heldFile(f.holderDir(), blob)
	if err != nil {
		return nil, err
	}
	ports, err := freePorts(1)
	if err != nil {
		return nil, err
	}
	tls, err := newCertificate(dir, link.far)
	if err != nil {
		return nil, err
	}
	ngx, err := startNginx(ctx, dir, nginxOptions{address: net.JoinHostPort(link.far, ports[0]), wrapper: link.wrapper, tls: &tls},
		served{"/blob", file, "application/octet-stream"})
	if err != nil {
		return nil, err
	}
	defer ngx.close()
	p := &peering{bench: b, fleet: f, blob: blob, holder: holder.PID(), nginx: ngx, certificate: tls}
	return p.compare(ctx)
}

// fill makes the holder hold a blob, from an upstream that is gone afterwards.
func (b *bench) fill(ctx context.Context, f *fleet) (v1.Descriptor, error) {
	b.say("%s: a member gets a blob of %d MiB from the upstream", peerName, b.size>>20)
	up, err := registrytest.Start(ctx, registrytest.Config{})
	if err != nil {
		return v1.Descriptor{}, err
	}
	defer up.Close()
	img, err := push(ctx, up, "peer", 5, b.size)
	if err != nil {
		return v1.Descriptor{}, err
	}
	kioo, err := b.startKioo(ctx, f.holderDir(), up, nil)
	if err != nil {
		return v1.Descriptor{}, err
	}
	defer stopKioo(kioo)
	c := newClient()
	defer c.close()
	if _, err := c.pull(ctx, through(kioo), img); err != nil {
		return v1.Descriptor{}, err
	}
	_, err = waitHeld(ctx, kioo, f.holderDir(), img.blobs[1])
	return img.blobs[1], err
}

// peering is what the rounds need.
type peering struct {
	*bench
	fleet       *fleet
	blob        v1.Descriptor
	holder      int // Its process.
	nginx       *nginx
	certificate certificate // nginx's
}

// fetching is a client's way to get the blob from a URL: how long it takes, and how much processor time if it tells.
type fetching func(ctx context.Context, url string) (curled, error)

// transfer is one fetch and what it cost.
type transfer struct {
	rate               float64 // megabytes per second
	sending, receiving float64 // processor seconds per GiB of either end
	peak               float64 // MiB of the receiving member
}

// compare measures with a client that drops what it gets, and with one that does what containerd does.
func (p *peering) compare(ctx context.Context) ([]row, error) {
	curlPath, err := findCurl()
	if err != nil {
		return nil, err
	}
	authorities, err := p.certificate.pool()
	if err != nil {
		return nil, err
	}
	drop := func(ctx context.Context, url string) (curled, error) {
		return curl(ctx, curlPath, url, p.blob.Size, p.certificate.file)
	}
	store := func(ctx context.Context, url string) (curled, error) {
		c := newClientOf(authorities)
		defer c.close()
		f, err := c.stored(ctx, url, p.blob, p.fleet.dir)
		return curled{seconds: f.whole.Seconds()}, err
	}
	var (
		dropped, stored transfers
		before          transfers // Against another version.
		work            pairs
	)
	for round := -1; round < p.bench.rounds; round++ { // The first one warms up and is forgotten.
		p.say("%s: round %d of %d", peerName, round+1, p.bench.rounds)
		dk, dn, err := p.turn(ctx, drop)
		if err != nil {
			return nil, err
		}
		if p.bench.before != "" {
			other, err := p.fromMember(ctx, p.bench.before, drop)
			if err != nil {
				return nil, fmt.Errorf("from a member, with the version before: %w", err)
			}
			if round >= 0 {
				before.add(dk, other)
			}
		}
		sk, sn, err := p.turn(ctx, store)
		if err != nil {
			return nil, err
		}
		if round >= 0 {
			dropped.add(dk, dn)
			stored.add(sk, sn)
			work.add(dk.rate, sn.rate)
		}
	}
	rows := dropped.rows(p.foot())
	rows = append(rows,
		work.ratio(peerName+": equal work", "MB/s", "nginx", nil),
		stored.rate.ratio(peerName+": storing client", "MB/s", "nginx", nil))
	if p.bench.before != "" {
		rows = append(rows,
			before.rate.ratio(peerName+": version before", "MB/s", "before", atLeast(1)),
			before.receiving.ratio(peerName+": version before, receiver's CPU", "s/GiB", "before", nil))
	}
	return rows, nil
}

func (p *peering) foot() string {
	return fmt.Sprintf(`%d MiB over %s, TLS 1.3 with
  %s on both sides; the client is curl, which drops what it gets. While nginx's bytes only pass curl,
  the receiving Kioo also hashes, writes to its disk and passes on. "equal work" compares the same with nginx and a
  client that hashes and writes to its disk. "storing client" has that client on both sides, as containerd is one:
  bytes from Kioo are hashed and written twice. All of it shares one machine. The receiver's CPU is Kioo's, without its
  client's, against curl's.`, p.blob.Size>>20, p.fleet.link.kind, cipher)
}

// transfers are those of all rounds.
type transfers struct {
	rate, sending, receiving pairs
	peak                     []float64
}

func (t *transfers) add(kioo, other transfer) {
	t.rate.add(kioo.rate, other.rate)
	t.sending.add(kioo.sending, other.sending)
	t.receiving.add(kioo.receiving, other.receiving)
	t.peak = append(t.peak, kioo.peak)
}

// rows is what a client saw that drops what it gets.
func (t *transfers) rows(foot string) []row {
	first := t.rate.ratio(peerName, "MB/s", "nginx", atLeast(0.9))
	first.Foot = foot
	return []row{
		first,
		t.sending.ratio(peerName+": sender's CPU", "s/GiB", "nginx", nil),
		t.receiving.ratio(peerName+": receiver's CPU", "s/GiB", "curl", nil),
		{Name: peerName + ": receiver's peak RSS", Unit: "MiB", Kioo: median(t.peak)},
	}
}

// turn fetches once from each side.
func (p *peering) turn(ctx context.Context, fetch fetching) (kioo, nginx transfer, err error) {
	if kioo, err = p.fromMember(ctx, p.program, fetch); err != nil {
		return kioo, nginx, fmt.Errorf("from a member: %w", err)
	}
	if nginx, err = p.measure(ctx, p.nginx.PID(), "https://"+p.nginx.host+"/blob", fetch); err != nil {
		return kioo, nginx, fmt.Errorf("from nginx: %w", err)
	}
	return kioo, nginx, nil
}

// fromMember fetches through a member of that program that holds nothing, and is gone afterwards.
func (p *peering) fromMember(ctx context.Context, program string, fetch fetching) (transfer, error) {
	kioo, err := p.fleet.startReceiver(ctx, program)
	if err != nil {
		return transfer{}, err
	}
	defer func() {
		stopKioo(kioo)
		_ = os.RemoveAll(p.fleet.receiverDir()) // What is left goes with the bench's directory.
	}()
	before, err := process.ProcessorTime(kioo.PID())
	if err != nil {
		return transfer{}, err
	}
	t, err := p.measure(ctx, p.holder, through(kioo).blob(p.blob), func(ctx context.Context, url string) (curled, error) {
		c, err := fetch(ctx, url)
		if err != nil {
			return c, err
		}
		// Its work is done when it holds the blob. Nor does that disturb what is measured next.
		_, err = waitHeld(ctx, kioo, p.fleet.receiverDir(), p.blob)
		return c, err
	})
	if err != nil {
		return transfer{}, fmt.Errorf("%w; the end of its log:\n%s", err, kioo.Log())
	}
	after, err := process.ProcessorTime(kioo.PID())
	if err != nil {
		return transfer{}, err
	}
	memory, err := process.ReadMemory(kioo.PID())
	if err != nil {
		return transfer{}, err
	}
	t.receiving = (after - before).Seconds() / gibibytes(p.blob.Size)
	t.peak = float64(memory.Peak) / (1 << 20)
	return t, nil
}

// measure fetches from one sender, whose process is given. Who receives is the client.
func (p *peering) measure(ctx context.Context, sender int, url string, fetch fetching) (transfer, error) {
	before, err := process.ProcessorTime(sender)
	if err != nil {
		return transfer{}, err
	}
	c, err := fetch(ctx, url)
	if err != nil {
		return transfer{}, err
	}
	after, err := process.ProcessorTime(sender)
	if err != nil {
		return transfer{}, err
	}
	size := gibibytes(p.blob.Size)
	return transfer{
		rate: float64(p.blob.Size) / 1e6 / c.seconds, sending: (after - before).Seconds() / size, receiving: c.cpu / size,
	}, nil
}

func gibibytes(n int64) float64 { return float64(n) / (1 << 30) }
