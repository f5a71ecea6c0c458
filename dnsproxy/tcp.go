package dnsproxy

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"appdefender/policy"
)

// serveTCP accepts connections until l is closed. It returns why it ended.
func (p *Proxy) serveTCP(ctx context.Context, l *net.TCPListener) error {
	var conns sync.WaitGroup
	defer conns.Wait()
	free := make(chan struct{}, maxConns)
	for fails := 0; ; {
		conn, err := l.AcceptTCP()
		if err != nil {
			if fails++; errors.Is(err, net.ErrClosed) || fails > maxSocketFails {
				return err
			}
			pause(ctx)
			continue
		}
		fails = 0
		select {
		case free <- struct{}{}:
			conns.Go(func() {
				defer func() { <-free }()
				p.serveConn(ctx, conn)
			})
		default:
			_ = conn.Close()
		}
	}
}

// serveConn answers the queries of one connection, each as soon as its answer
// is there, until the client is silent for too long or ends.
func (p *Proxy) serveConn(ctx context.Context, conn *net.TCPConn) {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	var answering sync.WaitGroup
	defer answering.Wait() // before Close: what was asked is answered

	client := unmap(conn.RemoteAddr().(*net.TCPAddr).AddrPort())
	who := func() policy.Process { return p.asker("tcp", client) }
	var mu sync.Mutex // of writes to conn
	send := func(reply []byte) error {
		mu.Lock()
		defer mu.Unlock()
		if err := conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
			return err
		}
		_, err := conn.Write(frame(reply))
		if err != nil {
			_ = conn.Close() // who does not read does not get to hold up more
		}
		return err
	}
	for {
		if err := conn.SetReadDeadline(time.Now().Add(p.idle)); err != nil {
			return
		}
		query, err := readFrame(conn)
		if err != nil {
			return
		}
		if !p.enter() {
			p.serve(ctx, query, who, false, false, send)
			continue
		}
		answering.Go(func() {
			defer p.leave()
			p.serve(ctx, query, who, false, true, send)
		})
	}
}

// frame puts the length before a message, as RFC 1035 4.2.2 has it, in one
// slice, so that it leaves in one segment.
func frame(msg []byte) []byte {
	b := make([]byte, 0, 2+len(msg))
	b = binary.BigEndian.AppendUint16(b, uint16(len(msg))) //nolint:gosec // finish bounds msg
	return append(b, msg...)
}

func readFrame(r io.Reader) ([]byte, error) {
	var length [2]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, err
	}
	msg := make([]byte, binary.BigEndian.Uint16(length[:]))
	_, err := io.ReadFull(r, msg)
	return msg, err
}
