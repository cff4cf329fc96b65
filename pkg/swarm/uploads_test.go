package swarm

import (
	"math/rand/v2"
	"testing"
	"time"
)

func TestUploads(t *testing.T) {
	now := time.Unix(0, 0)
	u := NewUploads(UploadsConfig{Slots: 2, Queue: 2, PerMember: 2})
	ask := func(member ID, want Verdict) {
		t.Helper()
		verdict, hint := u.Ask(now, member)
		if verdict != want || (hint > 0) != (want == Refuse) {
			t.Fatalf("%s is told %d with a hint of %v, want %d", member, verdict, hint, want)
		}
	}
	done := func(member, want ID) {
		t.Helper()
		if next, ok := u.Done(now, member); next != want || ok != (want != "") {
			t.Fatalf("after %s comes %q, want %q", member, next, want)
		}
	}
	ask("a", Serve)
	ask("a", Serve)
	ask("a", Refuse) // It has its share.
	ask("b", Queue)
	ask("c", Queue)
	ask("d", Refuse) // The queue is full.
	if verdict, _ := u.AskFirst(now, "d"); verdict != Serve {
		t.Fatal("a first copy waits")
	}
	if verdict, _ := u.AskFirst(now, "d"); verdict != Serve {
		t.Fatal("a second first copy waits")
	}
	if verdict, _ := u.AskFirst(now, "e"); verdict != Refuse {
		t.Fatal("first copies have no bound")
	}
	now = now.Add(time.Second)
	done("d", "")
	done("d", "")
	done("a", "b")
	if !u.Abandon("c") || u.Abandon("c") {
		t.Fatal("c is not in the queue just once")
	}
	done("a", "")
	done("b", "")
	done("x", "") // Never had one.
	ask("d", Serve)
}

// TestUploadsAgainstModel makes random calls, and counts.
func TestUploadsAgainstModel(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	u := NewUploads(UploadsConfig{})
	now := time.Unix(0, 0)
	active, queued := make(map[ID]int), []ID{}
	total := 0
	for range 20000 {
		now = now.Add(time.Millisecond)
		member := ID(rune('a' + r.IntN(12)))
		inQueue := 0
		for _, id := range queued {
			if id == member {
				inQueue++
			}
		}
		switch r.IntN(3) {
		case 0, 1:
			want := Serve
			if len(queued) >= 5 || active[member]+inQueue >= 4 {
				want = Refuse
			} else if total >= 8 || len(queued) > 0 {
				want = Queue
			}
			got, hint := u.Ask(now, member)
			if got != want || hint > time.Second {
				t.Fatalf("told %d with %v, want %d", got, hint, want)
			}
			if got == Serve {
				active[member]++
				total++
			} else if got == Queue {
				queued = append(queued, member)
			}
		case 2:
			var want ID
			if active[member] > 0 {
				active[member]--
				total--
				if len(queued) > 0 {
					want, queued = queued[0], queued[1:]
					active[want]++
					total++
				}
			}
			if next, _ := u.Done(now, member); next != want {
				t.Fatalf("next is %q, want %q", next, want)
			}
		}
	}
}
