package tracker

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/kioo-dev/kioo/pkg/peer"
)

// readWithin is how long an announce may take to arrive once its head is there.
const readWithin = 5 * time.Second

// ServeHTTP implements http.Handler: it answers the announces of other members. Who has to wait is told at once that
// the announce has arrived, by the head of the answer, so that it need not ask anybody else.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		http.Error(w, "announces are posted", http.StatusMethodNotAllowed)
		return
	}
	control := http.NewResponseController(w)
	// Recorders have no deadlines. It must not outlast the body, or it would end the wait.
	_ = control.SetReadDeadline(time.Now().Add(readWithin))
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
	_ = control.SetReadDeadline(time.Time{})
	var q *question
	if err == nil {
		q, err = decodeQuestion(body, s.clock.at(s.cfg.Now()))
	}
	if err != nil {
		s.metrics.announces.WithLabelValues("malformed").Inc()
		s.cfg.Log.V(1).Info("announce refused", "from", r.RemoteAddr, "reason", err.Error())
		s.cfg.Violations.Note(r.Header.Get(peer.MemberHeader), r.RemoteAddr, keyOf(body), err)
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	answer, err := s.answer(r.Context(), q, func() {
		w.WriteHeader(http.StatusOK)
		_ = control.Flush() // If it fails, so does the rest.
	})
	var away *referral
	switch {
	case errors.As(err, &away):
		s.refer(w, away)
		return
	case errors.Is(err, context.Canceled):
		return // Nobody is there to hear it.
	case err != nil:
		s.cfg.Log.Info("announce not answered", "key", q.key, "member", q.announce.Member, "reason", err.Error())
		w.WriteHeader(http.StatusServiceUnavailable) // Of no effect on who waited: a body without JSON is none.
		return
	}
	s.write(w, answer.encode)
}

// keyOf gives what a message that can't be read is about, if it says so.
func keyOf(body []byte) string {
	var about struct {
		Key string `json:"key"`
	}
	_ = json.Unmarshal(body, &about)
	return about.Key
}

// refer sends the sender to closer members.
func (s *Service) refer(w http.ResponseWriter, r *referral) {
	w.WriteHeader(http.StatusMisdirectedRequest)
	s.write(w, func(clock) ([]byte, error) { return r.encode() })
}

func (s *Service) write(w http.ResponseWriter, encode func(clock) ([]byte, error)) {
	body, err := encode(s.clock.at(s.cfg.Now()))
	if err == nil {
		_, err = w.Write(body)
	}
	if err != nil {
		s.cfg.Log.V(1).Info("answer not sent", "reason", err.Error())
	}
}
