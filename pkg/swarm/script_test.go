package swarm

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

var rewrite = flag.Bool("rewrite", false, "write what the scripts give into testdata; look at the difference")

// TestScripts plays the scripts in testdata: each line that is not indented is something that happens, and the indented
// lines below it are what is done about it. Sizes are in MiB.
func TestScripts(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(paths) < 4 {
		t.Fatalf("%d scripts, %v", len(paths), err)
	}
	for _, path := range paths {
		t.Run(filepath.Base(path), func(t *testing.T) {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			var play func(now time.Time, words []string) []string
			if strings.Contains(path, "tracker") {
				play = (&trackerScript{NewTracker(TrackerConfig{Rand: rand.New(rand.NewPCG(1, 1))})}).play
			} else {
				play = (&downloadScript{}).play
			}
			var got strings.Builder
			now := time.Unix(1000, 0)
			for line := range strings.Lines(string(text)) {
				if strings.HasPrefix(line, "    ") {
					continue
				}
				got.WriteString(line)
				words := strings.Fields(line)
				switch {
				case len(words) == 0 || words[0] == "#":
				case words[0] == "after":
					d, err := time.ParseDuration(words[1])
					if err != nil {
						t.Fatal(err)
					}
					now = now.Add(d)
				default:
					for _, line := range play(now, words) {
						got.WriteString("    " + line + "\n")
					}
				}
			}
			if *rewrite {
				if err := os.WriteFile(path, []byte(got.String()), 0o600); err != nil {
					t.Fatal(err)
				}
			} else if got.String() != string(text) {
				t.Errorf("the script gives now (go test -rewrite takes it over):\n%s", got.String())
			}
		})
	}
}

// options reads words such as size=12 or stalled.
func options(words []string) map[string]string {
	out := make(map[string]string)
	for _, word := range words {
		key, value, _ := strings.Cut(word, "=")
		out[key] = value
	}
	return out
}

// numbers reads 1-3,7.
func numbers(text string) (out []int) {
	for part := range strings.SplitSeq(text, ",") {
		from, to, ranged := strings.Cut(part, "-")
		first, err := strconv.Atoi(from)
		if err != nil {
			continue
		}
		last := first
		if ranged {
			last, _ = strconv.Atoi(to)
		}
		for ; first <= last; first++ {
			out = append(out, first)
		}
	}
	return out
}

func megabytes(text string) int64 {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return -1
	}
	return n << 20
}

func neighbours(text string) (out []Neighbour) {
	for name := range strings.SplitSeq(text, ",") {
		if id, zone, _ := strings.Cut(name, "@"); id != "" {
			out = append(out, Neighbour{Member: ID(id), Zone: zone})
		}
	}
	return out
}

// leases reads 0-8,12-16@holder.
func leases(text string) (out []Lease) {
	for part := range strings.SplitSeq(text, ",") {
		if from, to, ok := strings.Cut(part, "-"); ok {
			to, source, _ := strings.Cut(to, "@")
			out = append(out, Lease{Start: megabytes(from), End: megabytes(to), From: ID(source)})
		}
	}
	return out
}

type trackerScript struct{ *Tracker }

func (s *trackerScript) play(now time.Time, words []string) []string {
	switch words[0] {
	case "tick":
		s.Tick(now)
		return nil
	case "gone":
		s.Gone(now, ID(words[1]))
		return nil
	case "changed":
		return []string{strconv.FormatUint(s.Changed(s.Group("blob", -1)), 10)}
	}
	who, o := neighbours(words[1])[0], options(words[2:])
	a := Announce{Member: who.Member, Zone: who.Zone, Size: megabytes(o["size"])}
	if kb, err := strconv.ParseInt(o["kib"], 10, 64); err == nil {
		a.Size = kb << 10
	}
	for _, piece := range numbers(o["have"]) {
		a.Have.Add(piece)
	}
	_, a.Complete = o["complete"]
	_, a.Stalled = o["stalled"]
	_, a.Waiting = o["waiting"]
	_, a.Leaving = o["leaving"]
	_, a.Sequential = o["sequential"]
	a.Fetched = max(0, megabytes(o["fetched"]))
	a.Reading = leases(o["reading"])
	a.Partners, _ = strconv.Atoi(o["partners"])
	a.Upstream = map[string]Upstream{"busy": Busy, "failing": Failing, "refused": Refused, "never": Never}[o["upstream"]]
	got := s.Announce(now, "blob", a, neighbours(o["holders"]))
	var out []string
	for _, l := range got.Leases {
		from := ""
		if l.From != "" {
			from = " from " + string(l.From)
		}
		end := "the end"
		if l.End >= 0 {
			end = fmt.Sprint(float64(l.End) / (1 << 20))
		}
		out = append(out, fmt.Sprintf("lease %v to %s%s", float64(l.Start)/(1<<20), end, from))
	}
	if len(got.Holders) > 0 {
		out = append(out, fmt.Sprint("holders ", got.Holders))
	}
	if len(got.Neighbours) > 0 {
		out = append(out, fmt.Sprint("neighbours ", got.Neighbours))
	}
	if got.NoSource {
		out = append(out, "no source")
	}
	if got.Open {
		out = append(out, "open")
	}
	if got.Wait {
		out = append(out, "wait")
	}
	return append(out, "again in "+got.Again.String())
}

type downloadScript struct{ d *Download }

func (s *downloadScript) play(now time.Time, words []string) []string {
	o := options(words[1:])
	var who Neighbour
	if len(words) > 1 {
		who = neighbours(words[1])[0]
	}
	piece := -1
	if n := numbers(o["piece"]); len(n) > 0 {
		piece = n[0]
	}
	mark := byte(len(o["hash"])) // Any other word makes another hash.
	var haves []Have
	for _, p := range numbers(o["pieces"]) {
		haves = append(haves, Have{Piece: p, Hash: Hash{byte(p), byte(p >> 8), mark}})
	}
	var actions []Action
	switch words[0] {
	case "new":
		s.d = NewDownload(DownloadConfig{Self: who.Member, Zone: who.Zone, Layout: NewLayout(megabytes(o["size"])), Rand: rand.New(rand.NewPCG(2, 2))})
	case "assigned":
		a := Assignment{Size: s.d.cfg.Layout.Size, Neighbours: neighbours(o["neighbours"]), Holders: ids(neighbours(o["holders"])),
			Leases: leases(o["leases"])}
		actions = s.d.Assigned(now, a)
	case "connected":
		actions = s.d.Connected(now, who.Member)
	case "followed":
		actions = s.d.Followed(now, who)
	case "unfollowed":
		actions = s.d.Unfollowed(now, who.Member)
	case "lost":
		actions = s.d.Lost(now, who.Member)
	case "unknown":
		s.d.Unknown(who.Member)
	case "heard":
		actions = s.d.Heard(now, who.Member, haves)
	case "heardall":
		actions = s.d.HeardAll(now, who.Member)
	case "fetched":
		for _, have := range haves {
			actions = append(actions, s.d.Fetched(now, have)...)
		}
	case "arrived":
		actions = s.d.Arrived(now, who.Member, piece)
	case "refused":
		actions = s.d.Refused(now, who.Member, piece, 50*time.Millisecond)
	case "timedout":
		actions = s.d.TimedOut(now, who.Member, piece)
	case "wrong":
		actions = s.d.Wrong(now, who.Member, piece)
	case "tick":
		actions = s.d.Tick(now)
	default:
		return []string{"what is " + words[0] + "?"}
	}
	var out []string
	for _, action := range actions {
		out = append(out, action.String())
	}
	return out
}
