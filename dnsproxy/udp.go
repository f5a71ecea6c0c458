package dnsproxy

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"

	"appdefender/policy"
)

// serveUDP answers datagrams until conn is closed. It returns why it ended.
func (p *Proxy) serveUDP(ctx context.Context, conn *net.UDPConn) error {
	var answering sync.WaitGroup
	defer answering.Wait()
	buf := make([]byte, 1<<16)
	w := p.newWorker()
	for fails := 0; ; {
		n, client, err := conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			if fails++; errors.Is(err, net.ErrClosed) || fails > maxSocketFails {
				return err
			}
			pause(ctx)
			continue
		}
		fails = 0
		if reply := w.quick(buf[:n], true); reply != nil {
			_, _ = conn.WriteToUDPAddrPort(reply, client)
			continue
		}
		who := func() policy.Process { return p.asker("udp", unmap(client)) }
		send := func(reply []byte) error {
			_, err := conn.WriteToUDPAddrPort(reply, client)
			return err
		}
		// Without a free slot the query is judged here and now, so that a
		// flood cannot hide a refused name; only asking upstream is left out.
		if !p.enter() {
			p.serve(ctx, buf[:n], who, true, false, send)
			continue
		}
		query := slices.Clone(buf[:n])
		answering.Go(func() {
			defer p.leave()
			p.serve(ctx, query, who, true, true, send)
		})
	}
}
