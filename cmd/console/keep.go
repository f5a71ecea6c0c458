package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"appdefender/console/ca"
	"appdefender/console/store"
)

// keepFlags say how much serve keeps.
func keepFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "keep-audits", EnvVars: []string{"CONSOLE_KEEP_AUDITS"}, Value: "30d", Usage: "remove audits after this `DURATION`, such as 90d or 12h; 0 keeps them"},
		&cli.StringFlag{Name: "max-size", EnvVars: []string{"CONSOLE_MAX_SIZE"}, Value: "10GiB", Usage: "remove the oldest audits when the database has this `SIZE`, such as 500MiB; 0 lets it grow"},
	}
}

func limits(c *cli.Context) (l store.Limits, err error) {
	l.Age, err = age(c.String("keep-audits"))
	if err != nil {
		err = fmt.Errorf("--keep-audits: %w", err)
	}
	var sizeErr error
	if l.Bytes, sizeErr = size(c.String("max-size")); sizeErr != nil {
		err = errors.Join(err, fmt.Errorf("--max-size: %w", sizeErr))
	}
	return l, err
}

// age reads a duration, which may be in days.
func age(s string) (time.Duration, error) {
	if s == "0" {
		return 0, nil
	}
	d, err := time.ParseDuration(s)
	if text, ok := strings.CutSuffix(s, "d"); ok {
		var days uint64
		days, err = strconv.ParseUint(text, 10, 16)
		d = time.Duration(days) * 24 * time.Hour //nolint:gosec // 16 bits
	}
	if err != nil || d < time.Hour {
		return 0, fmt.Errorf("%q is no duration of an hour or more, such as 30d or 12h", s)
	}
	return d, nil
}

// minSize is less than what an empty database and its indices may grow to.
const minSize = 16 << 20

func size(s string) (int64, error) {
	if s == "0" {
		return 0, nil
	}
	for unit, factor := range map[string]uint64{"MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40} {
		if text, ok := strings.CutSuffix(s, unit); ok {
			if n, err := strconv.ParseUint(strings.TrimSpace(text), 10, 20); err == nil && n*factor >= minSize {
				return int64(n * factor), nil //nolint:gosec // 60 bits
			}
		}
	}
	return 0, fmt.Errorf("%q is no size of %d MiB or more, such as 500MiB or 10GiB", s, minSize>>20)
}

func (a *app) backup() *cli.Command {
	cmd := a.command("backup", "DIR", "write all that the Console has to a new folder, while it runs or not", a.writeBackup)
	cmd.Description = "The folder is a data directory: to restore it, \"console serve --data-dir DIR\".\n" +
		"It holds the keys of the Console too; keep it as safe as the Console.\n" +
		"Defenders need nothing: those that came later enrol again, and the policy is what\n" +
		"it was at the time of the backup."
	return cmd
}

func (a *app) writeBackup(c *cli.Context, st *store.Store) error {
	dir := c.Args().First()
	if err := backup(c.Context, st, c.String("data-dir"), dir); err != nil {
		return fmt.Errorf("writing a backup: %w", err)
	}
	info, err := os.Stat(filepath.Join(dir, databaseName))
	if err != nil {
		return err
	}
	with := ""
	if _, err := os.Stat(filepath.Join(dir, ca.Files[0])); err == nil {
		with = " and the certificate authority"
	}
	_, err = fmt.Fprintf(a.out, "%s: %d bytes%s\n", dir, info.Size(), with)
	return err
}

// backup leaves dir whole or not at all.
func backup(ctx context.Context, st *store.Store, from, dir string) (err error) {
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		if err == nil {
			err = hint(fmt.Errorf("%q exists", dir), "give a folder that is not there yet")
		}
		return err
	}
	temp, err := os.MkdirTemp(filepath.Dir(filepath.Clean(dir)), ".backup-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(temp)
		}
	}()
	for _, name := range ca.Files {
		data, err := os.ReadFile(filepath.Join(from, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // served by --http
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(temp, name), data, 0o600)
		}
		if err != nil {
			return err
		}
	}
	if err := st.Backup(ctx, filepath.Join(temp, databaseName)); err != nil {
		return err
	}
	return os.Rename(temp, dir)
}
