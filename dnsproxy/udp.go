package dnsproxy

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"syscall"

	"appdefender/internal/sys"
	"appdefender/policy"
)

const (
	batch       = 32   // datagrams that are taken at once
	maxUDPQuery = 4096 // of a query; no resolver sends a tenth of it
)

// serveUDP answers datagrams until conn is closed. It returns why it ended.
func (p *Proxy) serveUDP(ctx context.Context, conn *net.UDPConn) error {
	var answering sync.WaitGroup
	defer answering.Wait()
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	// Room is made when somebody asks: most doors are never knocked at.
	if err := raw.Read(func(fd uintptr) bool {
		_, _, err := syscall.Recvfrom(int(fd), nil, syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		return !errors.Is(err, syscall.EAGAIN)
	}); err != nil {
		return err
	}
	var (
		msgs    = sys.NewDatagrams(batch, maxUDPQuery)
		w       = p.newWorker()
		replies = make([][]byte, batch)
		n       int
		failed  error
	)
	for i := range replies {
		replies[i] = make([]byte, 0, maxUDPSize)
	}
	receive := func(fd uintptr) bool {
		n, failed = msgs.Receive(fd)
		return !errors.Is(failed, syscall.EAGAIN)
	}
	send := func(fd uintptr) bool {
		msgs.Send(fd)
		return true
	}
	for fails := 0; ; {
		err := raw.Read(receive)
		if err == nil {
			err = failed
		}
		if err != nil {
			if fails++; errors.Is(err, net.ErrClosed) || fails > maxSocketFails {
				return err
			}
			pause(ctx)
			continue
		}
		fails = 0
		for i := range n {
			if reply := w.quick(replies[i], msgs.Payload(i), true); reply != nil {
				replies[i] = reply
				msgs.Answer(i, reply)
			}
		}
		if err := raw.Write(send); err != nil {
			return err
		}
		for i := range n {
			if len(replies[i]) == 0 {
				p.answerUDP(ctx, conn, msgs, i, &answering)
			}
			replies[i] = replies[i][:0]
		}
	}
}

// answerUDP answers one datagram that is not for a worker.
func (p *Proxy) answerUDP(ctx context.Context, conn *net.UDPConn, msgs *sys.Datagrams, i int, answering *sync.WaitGroup) {
	client := msgs.From(i)
	who := func() policy.Process { return p.asker("udp", unmap(client)) }
	send := func(reply []byte) error {
		_, err := conn.WriteToUDPAddrPort(reply, client)
		return err
	}
	// Without a free slot the query is judged here and now, so that a
	// flood cannot hide a refused name; only asking upstream is left out.
	if !p.enter() {
		p.serve(ctx, msgs.Payload(i), who, true, false, send)
		return
	}
	query := slices.Clone(msgs.Payload(i))
	if known, ok := p.known("udp", unmap(client)); ok {
		in := &inquiry{who: func() policy.Process { return known }, udp: true}
		end := func() {
			p.send(&in.outcome, send)
			p.leave()
		}
		if !p.open(in, query, true) {
			end()
		} else if !p.launch(in, end) {
			answering.Go(func() {
				e, stale, err := p.resolve(ctx, &in.q, in.key, in.kept)
				p.finish(in, e, stale, err)
				end()
			})
		}
		return
	}
	answering.Go(func() {
		defer p.leave()
		p.serve(ctx, query, who, true, true, send)
	})
}
