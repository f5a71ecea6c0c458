package dnsproxy

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"slices"
	"sync"
	"time"
)

const (
	maxReady  = 16          // sockets to one upstream that nobody uses
	readyTime = time.Second // how long one waits for a query
)

var (
	errLate    = errors.New("no answer in time")
	errUnasked = errors.New("an answer that nobody asked for")
)

// sockets ask one server by UDP. Each is for one query, so that each comes from
// a random port (RFC 5452 9.2). One is open and has its reader before it is
// needed: between a query and its answer nothing has to be started. None waits
// for long: it could be found, and filled with forged answers.
type sockets struct {
	to *net.UDPAddr

	mu    sync.Mutex
	ready []*socket // the one opened last at the end
	asked map[*socket]struct{}
	sweep *time.Timer // nil if nothing has been asked for a while
	late  time.Duration
	ended bool
}

type socket struct {
	*net.UDPConn
	since time.Time // of the query, or when it was opened
	task  *task     // nil if nobody has used it, and when that is over
}

// task is a query that waits for its answer.
type task struct {
	id       uint16
	question []byte
	done     func(*answer, error)
}

// begin sends a query and returns. done is called once, from another goroutine:
// with the answer, or with an error if there is none for so long, or nobody
// listens there.
func (s *sockets) begin(query, question []byte, late time.Duration, done func(*answer, error)) {
	c, err := s.take(late, &task{binary.BigEndian.Uint16(query), question, done})
	if err != nil {
		go done(nil, err)
		return
	}
	if _, err := c.Write(query); err != nil {
		if t := s.claim(c); t != nil {
			_ = c.Close()
			go t.done(nil, err)
		}
	}
}

// take returns a socket whose reader waits for the answer to t.
func (s *sockets) take(late time.Duration, t *task) (*socket, error) {
	c := s.idle()
	if c == nil {
		conn, err := net.DialUDP("udp", nil, s.to)
		if err != nil {
			return nil, err
		}
		c = &socket{UDPConn: conn}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		_ = c.Close()
		return nil, net.ErrClosed
	}
	if c.since.IsZero() {
		go s.read(c)
	}
	c.since, c.task = time.Now(), t
	s.asked[c] = struct{}{}
	s.late = late
	s.watch()
	return c, nil
}

// idle takes the socket opened last of those that are ready, if there is one.
func (s *sockets) idle() *socket {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.ready) - 1
	if n < 0 || time.Since(s.ready[n].since) >= readyTime {
		return nil // and they will be swept
	}
	c := s.ready[n]
	s.ready = s.ready[:n]
	return c
}

// claim returns the task of a socket to the one who is to end it, nil to all
// others.
func (s *sockets) claim(c *socket) *task {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := c.task
	c.task = nil
	delete(s.asked, c)
	return t
}

// read waits for the answer on one socket after the other.
func (s *sockets) read(c *socket) {
	buf := make([]byte, maxUDPSize)
	for c != nil {
		n, err := c.Read(buf)
		s.mu.Lock()
		t := c.task
		s.mu.Unlock()
		var a *answer
		switch {
		case err != nil:
		case t == nil:
			err = errUnasked
		default:
			if a, err = readAnswer(buf[:n], t.id, t.question); errors.Is(err, errMismatch) {
				continue // late, or forged: the right one may still come
			}
		}
		if t = s.claim(c); t != nil {
			t.done(a, err)
		}
		_ = c.Close()
		c = s.next(c, t != nil)
	}
}

// next returns a new socket in the place of a used one, nil if there are
// enough.
func (s *sockets) next(c *socket, used bool) *socket {
	s.mu.Lock()
	s.ready = slices.DeleteFunc(s.ready, func(r *socket) bool { return r == c })
	enough := !used || s.ended || len(s.ready) >= maxReady
	s.mu.Unlock()
	if enough {
		return nil
	}
	conn, err := net.DialUDP("udp", nil, s.to)
	if err != nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || len(s.ready) >= maxReady {
		_ = conn.Close()
		return nil
	}
	c = &socket{UDPConn: conn, since: time.Now()}
	s.ready = append(s.ready, c)
	s.watch()
	return c
}

// watch has what is open swept.
//
// Precondition: the lock is held.
func (s *sockets) watch() {
	if s.sweep == nil {
		s.sweep = time.AfterFunc(s.late, s.swept)
	}
}

// swept ends what waits for too long. One timer for all: to set one for each
// query would wake a thread each time.
func (s *sockets) swept() {
	var late []*task
	s.mu.Lock()
	now := time.Now()
	for c := range s.asked {
		if s.ended || now.Sub(c.since) >= s.late {
			late = append(late, c.task)
			c.task = nil
			delete(s.asked, c)
			_ = c.Close()
		}
	}
	s.ready = slices.DeleteFunc(s.ready, func(c *socket) bool {
		old := s.ended || now.Sub(c.since) >= readyTime
		if old {
			_ = c.Close() // and its reader ends
		}
		return old
	})
	if len(s.asked)+len(s.ready) > 0 {
		s.sweep.Reset(s.late)
	} else {
		s.sweep = nil
	}
	s.mu.Unlock()
	for _, t := range late {
		t.done(nil, errLate)
	}
}

// close ends all sockets, and has no more opened.
func (s *sockets) close() {
	s.mu.Lock()
	s.ended = true
	idle := s.sweep == nil
	s.mu.Unlock()
	if !idle {
		s.swept()
	}
}

// exchange sends a query and waits for its answer until ctx ends.
func (s *sockets) exchange(ctx context.Context, query, question []byte) (*answer, error) {
	conn, err := net.DialUDP("udp", nil, s.to)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer untilDone(ctx, conn)()
	if _, err := conn.Write(query); err != nil {
		return nil, err
	}
	buf := make([]byte, maxUDPSize)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return nil, err
		}
		a, err := readAnswer(buf[:n], binary.BigEndian.Uint16(query), question)
		if errors.Is(err, errMismatch) {
			continue
		}
		return a, err
	}
}
