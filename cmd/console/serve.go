package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"appdefender/cmd/internal/flags"
	"appdefender/console"
	"appdefender/console/ca"
	"appdefender/console/store"
	"appdefender/console/web"
	"appdefender/wire"
)

const (
	defaultListen     = ":8443"
	defaultListenHTTP = "127.0.0.1:8080"
	shutdownTime      = 10 * time.Second
)

func (a *app) serve() *cli.Command {
	return &cli.Command{
		Name:      "serve",
		Usage:     "start the Console",
		UsageText: "console serve [flags]",
		Description: "The first start makes the database, a certificate authority and an administrator\n" +
			"in the data directory, and prints the administrator's password once.",
		OnUsageError: usageError,
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "listen", EnvVars: []string{"CONSOLE_LISTEN"}, Usage: "`ADDRESS` and port (default: " + defaultListen + ", with --http " + defaultListenHTTP + ")"},
			&cli.BoolFlag{Name: "http", Usage: "no TLS; only on a loopback address"},
			&cli.StringSliceFlag{Name: "san", EnvVars: []string{"CONSOLE_SAN"}, Usage: "another host `NAME` or address of this Console, for its certificate; may be repeated"},
			&cli.StringFlag{Name: "url", EnvVars: []string{"CONSOLE_URL"}, Usage: "`URL` by which Defenders reach this Console, for the commands that pages show (default: the browser's)"},
			&cli.StringFlag{Name: "defender-image", EnvVars: []string{"CONSOLE_DEFENDER_IMAGE"}, Usage: "`IMAGE` of the Defender that definitions are embedded with unless somebody names another"},
			&cli.StringFlag{Name: "defender", EnvVars: []string{"CONSOLE_DEFENDER"}, Usage: "`FILE` of the Defender's program, for the ZIP of a protected Dockerfile (default: \"defender\" beside this program, if it is there)"},
			dataDirFlag(),
		}, keepFlags()...),
		Action: a.runServer,
	}
}

func (a *app) runServer(c *cli.Context) (err error) {
	ctx := c.Context
	defer func() {
		if errors.Is(err, context.Canceled) && ctx.Err() != nil {
			err = nil // told to stop before it had begun
		}
	}()
	cfg, err := serveConfig(c)
	if err != nil {
		return err
	}
	dir := c.String("data-dir")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return hint(fmt.Errorf("making the data directory: %w", err), "--data-dir says where else it may be")
	}
	unlock, err := lock(dir)
	if err != nil {
		return err
	}
	defer unlock()
	st, err := store.Open(ctx, store.Config{Path: filepath.Join(dir, databaseName)})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	log := slog.New(slog.NewTextHandler(a.err, nil))
	var authority *ca.Authority
	if !cfg.PlainHTTP {
		if authority, err = ca.Open(dir, ca.Names(c.StringSlice("san")), nil); err != nil {
			return hint(err, "to make a new one, move ca.pem and ca-key.pem away; Defenders then need the new ca.pem")
		}
		cfg.Embed.CA = authority.PEM()
	}
	cfg.Store, cfg.Log = st, log
	srv, err := console.New(ctx, cfg)
	if err != nil {
		return err
	}
	ln, err := listen(c.String("listen"), cfg.PlainHTTP)
	if err != nil {
		return err
	}
	defer ln.Close()
	hs := &http.Server{
		Handler:           srv,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelInfo),
	}
	hs.RegisterOnShutdown(srv.Stop)
	pages := web.Config{URL: cfg.Embed.URL, Version: version}
	caPath := ""
	if authority != nil {
		hs.TLSConfig = authority.TLS()
		caPath, pages.CA = authority.Path(), authority.PEM()
	}
	if err := web.Add(srv, pages); err != nil {
		return fmt.Errorf("preparing the pages: %w", err)
	}
	password, err := firstAdmin(ctx, st)
	if err != nil {
		return err
	}
	a.welcome(ln.Addr(), caPath, password)
	tending, stop := context.WithCancel(ctx)
	tended := make(chan struct{})
	go func() {
		defer close(tended)
		srv.Tend(tending)
	}()
	defer func() { stop(); <-tended }() // before the database is closed
	return serve(ctx, hs, ln, log)
}

// serveConfig reads the flags of serve; every fault of them is told. Database,
// log and certificate authority are not there yet.
func serveConfig(c *cli.Context) (console.Config, error) {
	if c.NArg() > 0 {
		return console.Config{}, hint(fmt.Errorf("serve takes no arguments, not %q", c.Args().First()), "see %q", "console serve --help")
	}
	cfg := console.Config{
		PlainHTTP: c.Bool("http"),
		Embed:     console.EmbedConfig{URL: c.String("url"), DefenderImage: c.String("defender-image"), Version: version},
	}
	var errs []error
	for _, name := range c.StringSlice("san") {
		if err := ca.CheckName(name); err != nil {
			errs = append(errs, fmt.Errorf("--san: %w", err))
		}
	}
	if cfg.Embed.URL != "" {
		if _, err := wire.ParseURL(cfg.Embed.URL); err != nil {
			errs = append(errs, fmt.Errorf("--url: %w", err))
		}
	}
	var err error
	if cfg.Keep, err = limits(c); err != nil {
		errs = append(errs, err)
	}
	if cfg.Embed.Program, err = program(c.String("defender")); err != nil {
		errs = append(errs, err)
	}
	return cfg, flags.Faults(errs...)
}

// program returns the file of the Defender's program; "" is none.
func program(file string) (string, error) {
	if file != "" {
		if _, err := os.Stat(file); err != nil {
			return "", fmt.Errorf("--defender: %w", err)
		}
		return file, nil
	}
	self, err := os.Executable()
	if err != nil {
		return "", nil //nolint:nilerr // where nobody knows where we are, nothing is beside us
	}
	beside := filepath.Join(filepath.Dir(self), "defender")
	if info, err := os.Stat(beside); err != nil || !info.Mode().IsRegular() {
		return "", nil
	}
	return beside, nil
}

// serve serves until ctx ends. Requests that wait are ended first.
func serve(ctx context.Context, hs *http.Server, ln net.Listener, log *slog.Logger) error {
	ended := make(chan error, 1)
	go func() {
		if hs.TLSConfig != nil {
			ended <- hs.ServeTLS(ln, "", "")
		} else {
			ended <- hs.Serve(ln)
		}
	}()
	select {
	case err := <-ended:
		return fmt.Errorf("serving: %w", err)
	case <-ctx.Done():
	}
	log.Info("stopping")
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTime)
	defer cancel()
	if err := hs.Shutdown(bounded); err != nil {
		hs.Close() // who does not end is cut off
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving: %w", err)
	}
	return nil
}

// listen refuses to serve passwords in the clear to other machines.
func listen(address string, plain bool) (net.Listener, error) {
	if address == "" {
		address = defaultListen
		if plain {
			address = defaultListenHTTP
		}
	}
	ln, err := net.Listen("tcp", address)
	if err != nil {
		return nil, hint(fmt.Errorf("listening: %w", err), "--listen chooses another address, such as %s", defaultListen)
	}
	if a, ok := ln.Addr().(*net.TCPAddr); plain && (!ok || !a.IP.IsLoopback()) {
		ln.Close()
		return nil, hint(fmt.Errorf("--http: %q is not a loopback address", address),
			"leave --http out: HTTPS needs nothing prepared; or use --listen %s", defaultListenHTTP)
	}
	return ln, nil
}

// lock keeps a second Console away from the data: each holds the newest policy
// in memory.
func lock(dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, hint(fmt.Errorf("locking the data directory: %w", err), "--data-dir says where else it may be")
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, hint(fmt.Errorf("locking %q: another Console uses it", dir), "stop it, or choose another --data-dir")
	}
	return func() { f.Close() }, nil
}

// welcome says where the Console is, and at the first start how to sign in.
func (a *app) welcome(addr net.Addr, caPath, password string) {
	scheme := "https"
	if caPath == "" {
		scheme = "http"
	}
	fmt.Fprintf(a.out, "Console:      %s://%s/\n", scheme, reachable(addr))
	if caPath != "" {
		fmt.Fprintf(a.out, "Certificate:  %s, for Defenders (DEFENDER_CA) and your browser\n", caPath)
	}
	if password != "" {
		fmt.Fprintf(a.out, "User:         admin\nPassword:     %s\n", password)
		fmt.Fprint(a.out, "              shown only now; \"console user passwd admin\" makes another\n")
	}
}

// reachable is a listener's address as one types it.
func reachable(addr net.Addr) string {
	a, ok := addr.(*net.TCPAddr)
	if !ok || !a.IP.IsUnspecified() && a.IP != nil {
		return addr.String()
	}
	return net.JoinHostPort("localhost", strconv.Itoa(a.Port))
}
