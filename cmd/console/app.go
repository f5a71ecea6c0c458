package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"appdefender/cmd/internal/flags"
	"appdefender/console/store"
)

type app struct {
	in       io.Reader
	out, err io.Writer
}

// hinted is an error with what to try next.
type hinted struct {
	error
	hint string
}

func (h hinted) Unwrap() error { return h.error }

func hint(err error, format string, args ...any) error {
	return hinted{err, fmt.Sprintf(format, args...)}
}

func hintOf(err error) string {
	h, _ := errors.AsType[hinted](err)
	return h.hint
}

func (a *app) cli() *cli.App {
	return &cli.App{
		Name:            "console",
		Usage:           "the server that Defenders report to",
		UsageText:       "console COMMAND [flags]",
		Version:         version,
		HideHelpCommand: true,
		Reader:          a.in,
		Writer:          a.out,
		ErrWriter:       a.err,
		// Errors are printed once, by main.
		ExitErrHandler: func(*cli.Context, error) {},
		OnUsageError:   usageError,
		Commands:       []*cli.Command{a.serve(), a.user(), a.token(), a.backup(), a.version()},
		Action:         unknown,
	}
}

// usageError keeps the library from printing the whole help for a typo.
func usageError(c *cli.Context, err error, _ bool) error {
	return hint(flags.Explain(c, err), "see %q", c.Command.HelpName+" --help")
}

func unknown(c *cli.Context) error {
	if c.Args().Present() {
		return hint(fmt.Errorf("unknown command %q", c.Args().First()), "see %q", "console --help")
	}
	return cli.ShowSubcommandHelp(c)
}

func (a *app) version() *cli.Command {
	return &cli.Command{
		Name:  "version",
		Usage: "print the version",
		Action: func(*cli.Context) error {
			_, err := fmt.Fprintln(a.out, version)
			return err
		},
	}
}

func dataDirFlag() cli.Flag {
	return &cli.StringFlag{Name: "data-dir", EnvVars: []string{"CONSOLE_DATA_DIR"}, Value: "console-data", Usage: "`DIR` of the database and the certificate authority"}
}

// databaseName is the database in the data directory.
const databaseName = "console.db"

// open opens the database of a Console that was started before. It may be
// running: what is changed holds at once.
func (a *app) open(c *cli.Context) (*store.Store, error) {
	dir := c.String("data-dir")
	path := filepath.Join(dir, databaseName)
	if _, err := os.Stat(path); err != nil {
		err = fmt.Errorf("opening database: %w", err)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, hint(err, "%q makes it; --data-dir says where it is", "console serve --data-dir "+dir)
		}
		return nil, err
	}
	return store.Open(c.Context, store.Config{Path: path})
}

// with opens the database for an action that takes so many arguments.
func (a *app) with(args string, do func(c *cli.Context, st *store.Store) error) cli.ActionFunc {
	return func(c *cli.Context) error {
		want := len(strings.Fields(args))
		if c.NArg() != want {
			given := "nothing is given"
			if c.NArg() > 0 {
				given = fmt.Sprintf("%q is given", strings.Join(c.Args().Slice(), " "))
			}
			err := fmt.Errorf("%s takes %s; %s", c.Command.HelpName, cmp.Or(args, "no arguments"), given)
			return hint(err, "see %q", c.Command.HelpName+" --help")
		}
		st, err := a.open(c)
		if err != nil {
			return err
		}
		return errors.Join(do(c, st), st.Close())
	}
}

// command fills in what all commands below user and token share.
func (a *app) command(name, args, usage string, do func(c *cli.Context, st *store.Store) error, own ...cli.Flag) *cli.Command {
	return &cli.Command{
		Name: name, Usage: usage, ArgsUsage: args, OnUsageError: usageError,
		Flags: append(own, dataDirFlag()), Action: a.with(args, do),
	}
}

// cliUser is who changes something here, for the list of changes.
const cliUser = "command line"

func stdinFlag() cli.Flag {
	return &cli.BoolFlag{Name: "password-stdin", Usage: "read the password's one line from standard input; without it one is made and printed"}
}

func (a *app) user() *cli.Command {
	role := &cli.StringFlag{Name: "role", Value: string(store.Auditor), Usage: "admin, editor or `auditor`"}
	return &cli.Command{
		Name: "user", Usage: "people who sign in", OnUsageError: usageError, Action: unknown, HideHelpCommand: true,
		Subcommands: []*cli.Command{
			a.command("add", "NAME", "add a user", a.userAdd, role, stdinFlag()),
			a.command("list", "", "list all users", a.userList),
			a.command("passwd", "NAME", "change a user's password and end the user's sessions", a.userPasswd, stdinFlag()),
			a.command("role", "NAME ROLE", "change a user's role and end the user's sessions", a.userRole),
			a.command("delete", "NAME", "delete a user", func(c *cli.Context, st *store.Store) error {
				return named(st.DeleteUser(c.Context, cliUser, c.Args().First()), "user")
			}),
		},
	}
}

// named adds a hint to an error about a name.
func named(err error, what string) error {
	switch {
	case errors.Is(err, store.ErrNotFound):
		return hint(err, "see %q", "console "+what+" list")
	case errors.Is(err, store.ErrExists):
		return hint(err, "choose another name, or see %q", "console "+what+" list")
	case errors.Is(err, store.ErrLastAdmin):
		return hint(err, "make another one first, with %q", "console user add --role admin NAME")
	}
	return err
}

// password returns the password for a user, and whether it was made here.
func (a *app) password(c *cli.Context) (password string, made bool, err error) {
	if !c.Bool("password-stdin") {
		return store.NewPassword(), true, nil
	}
	line, err := bufio.NewReader(io.LimitReader(a.in, store.MaxPassword+3)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", false, fmt.Errorf("reading the password: %w", err)
	}
	line = strings.TrimRight(line, "\r\n")
	if line == "" {
		return "", false, hint(errors.New("reading the password: standard input is empty"), "without --password-stdin one is made")
	}
	return line, false, nil
}

func (a *app) userAdd(c *cli.Context, st *store.Store) error {
	role, err := store.ParseRole(c.String("role"))
	if err != nil {
		return fmt.Errorf("--role: %w", err)
	}
	password, made, err := a.password(c)
	if err != nil {
		return err
	}
	if err := st.AddUser(c.Context, cliUser, c.Args().First(), role, password); err != nil {
		return named(err, "user")
	}
	return a.tell(password, made)
}

// tell prints a password that was made, alone on its line.
func (a *app) tell(password string, made bool) error {
	if !made {
		return nil
	}
	_, err := fmt.Fprintln(a.out, password)
	return err
}

func (a *app) userPasswd(c *cli.Context, st *store.Store) error {
	password, made, err := a.password(c)
	if err != nil {
		return err
	}
	if err := st.SetPassword(c.Context, cliUser, c.Args().First(), password); err != nil {
		return named(err, "user")
	}
	return a.tell(password, made)
}

func (a *app) userRole(c *cli.Context, st *store.Store) error {
	return named(st.SetRole(c.Context, cliUser, c.Args().Get(0), store.Role(c.Args().Get(1))), "user")
}

func (a *app) userList(c *cli.Context, st *store.Store) error {
	users, err := st.Users(c.Context)
	if err != nil {
		return err
	}
	w := a.table("NAME", "ROLE", "CREATED")
	for _, u := range users {
		fmt.Fprintf(w, "%s\t%s\t%s\n", u.Name, u.Role, stamp(u.Created))
	}
	return w.Flush()
}

func (a *app) table(columns ...string) *tabwriter.Writer {
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, strings.Join(columns, "\t"))
	return w
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Format("2006-01-02 15:04")
}

func (a *app) token() *cli.Command {
	expires := &cli.DurationFlag{Name: "expires", Usage: "let nobody in after this `DURATION`, such as 24h (default: never)"}
	uses := &cli.IntFlag{Name: "uses", Usage: "let at most `N` Defenders in (default: any number)"}
	return &cli.Command{
		Name: "token", Usage: "enrolment tokens, by which Defenders come in", OnUsageError: usageError, Action: unknown, HideHelpCommand: true,
		Subcommands: []*cli.Command{
			a.command("create", "NAME", "make a token and print it, this once", a.tokenCreate, expires, uses),
			a.command("list", "", "list all tokens", a.tokenList),
			a.command("delete", "NAME", "delete a token; Defenders that came in by it stay", func(c *cli.Context, st *store.Store) error {
				return named(st.DeleteToken(c.Context, cliUser, c.Args().First()), "token")
			}),
		},
	}
}

func (a *app) tokenCreate(c *cli.Context, st *store.Store) error {
	t := store.Token{Name: c.Args().First()}
	if c.IsSet("expires") {
		if c.Duration("expires") <= 0 {
			return fmt.Errorf("--expires: %s is not in the future", c.Duration("expires"))
		}
		t.Expires = time.Now().Add(c.Duration("expires"))
	}
	if c.IsSet("uses") {
		n := c.Int("uses")
		t.Uses = &n
	}
	secret, err := st.AddToken(c.Context, cliUser, t)
	if err != nil {
		return named(err, "token")
	}
	_, err = fmt.Fprintln(a.out, secret)
	return err
}

func (a *app) tokenList(c *cli.Context, st *store.Store) error {
	tokens, err := st.Tokens(c.Context)
	if err != nil {
		return err
	}
	w := a.table("NAME", "CREATED", "BY", "EXPIRES", "USES LEFT", "LAST USED")
	for _, t := range tokens {
		uses := "any"
		if t.Uses != nil {
			uses = fmt.Sprint(*t.Uses)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", t.Name, stamp(t.Created), t.Who, stamp(t.Expires), uses, stamp(t.Used))
	}
	return w.Flush()
}

// firstAdmin makes an administrator if there is no user at all, and returns
// the password.
func firstAdmin(ctx context.Context, st *store.Store) (password string, err error) {
	users, err := st.Users(ctx)
	if err != nil || len(users) > 0 {
		return "", err
	}
	password = store.NewPassword()
	return password, st.AddUser(ctx, "system", "admin", store.Admin, password)
}
