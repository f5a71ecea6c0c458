package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
)

// Role is what a user may do. Each role may do what the next one may.
type Role string

const (
	Admin   Role = "admin"   // users and tokens
	Editor  Role = "editor"  // policy and Defenders
	Auditor Role = "auditor" // look
)

// Roles are all roles, the mightiest first.
var Roles = []Role{Admin, Editor, Auditor}

// May reports whether the role includes another. No role includes an unknown
// one.
func (r Role) May(need Role) bool {
	have := false
	for _, role := range Roles {
		have = have || role == r
		if role == need {
			return have
		}
	}
	return false
}

// ParseRole reads a role's word.
func ParseRole(s string) (Role, error) {
	for _, role := range Roles {
		if string(role) == s {
			return role, nil
		}
	}
	return "", fmt.Errorf("%q is no role; one of admin, editor, auditor", s)
}

// User is somebody who signs in.
type User struct {
	ID              int64     `json:"-"`
	Name            string    `json:"name"`
	Role            Role      `json:"role"`
	Created         time.Time `json:"created"`
	PasswordChanged time.Time `json:"passwordChanged"`
}

const userColumns = `u.id, u.name, u.role, u.created, u.changed`

func scanUser(scan func(...any) error, u *User, also ...any) error {
	var created, changed int64
	if err := scan(append([]any{&u.ID, &u.Name, &u.Role, &created, &changed}, also...)...); err != nil {
		return err
	}
	u.Created, u.PasswordChanged = fromMicros(created), fromMicros(changed)
	return nil
}

// CheckName reports what is wrong with the name of a user or token.
func CheckName(name string) error {
	switch {
	case name == "":
		return errors.New("the name is empty")
	case len(name) > 128:
		return errors.New("the name is longer than 128 bytes")
	case strings.TrimSpace(name) != name:
		return fmt.Errorf("the name %q begins or ends with a space", name)
	}
	for _, r := range name {
		if !unicode.IsPrint(r) || r == unicode.ReplacementChar {
			return fmt.Errorf("the name %q has a character that cannot be shown", name)
		}
	}
	return nil
}

// AddUser adds a user. who is told as the one who did it. The error is
// ErrExists if the name is taken; letter case makes no other name.
func (s *Store) AddUser(ctx context.Context, who, name string, role Role, password string) error {
	if err := CheckName(name); err != nil {
		return invalid("adding user: %w", err)
	}
	if strings.Contains(name, ":") { // basic authentication ends the name there
		return invalid("adding user: the name %q has a colon", name)
	}
	if _, err := ParseRole(string(role)); err != nil {
		return invalid("adding user %q: %w", name, err)
	}
	hash, err := hashPassword(password)
	if err != nil {
		return invalid("adding user %q: %w", name, err)
	}
	return s.update(ctx, func(t *tx) error {
		now := micros(s.now())
		n, err := t.exec(`INSERT INTO users (name, role, password, created, changed) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
			name, role, hash, now, now)
		if err != nil {
			return err
		}
		if n == 0 {
			return fmt.Errorf("user %q: %w", name, ErrExists)
		}
		return t.change(now, who, "added user %q, %s", name, role)
	})
}

// Users returns all users by name.
func (s *Store) Users(ctx context.Context) ([]User, error) {
	rows, err := s.reads.QueryContext(ctx, `SELECT `+userColumns+` FROM users u ORDER BY u.name`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var users []User
	for rows.Next() {
		var u User
		if err := scanUser(rows.Scan, &u); err != nil {
			return nil, err
		}
		users = append(users, u)
	}
	return users, rows.Err()
}

// User returns one user, or ErrNotFound.
func (s *Store) User(ctx context.Context, name string) (User, error) {
	var u User
	row := s.reads.QueryRowContext(ctx, `SELECT `+userColumns+` FROM users u WHERE u.name = ?`, name)
	return u, orNotFound(scanUser(row.Scan, &u), "user %q", name)
}

// CheckPassword returns the user if the password is right, and ErrNotFound if
// it is not or there is no such user: both take the same time.
func (s *Store) CheckPassword(ctx context.Context, name, password string) (User, error) {
	var u User
	var hash string
	row := s.reads.QueryRowContext(ctx, `SELECT `+userColumns+`, u.password FROM users u WHERE u.name = ?`, name)
	if err := scanUser(row.Scan, &u, &hash); err != nil && !errors.Is(err, sql.ErrNoRows) {
		return User{}, err
	}
	ok, err := checkPassword(hash, password)
	if err == nil && !ok {
		err = ErrNotFound
	}
	if err != nil {
		return User{}, fmt.Errorf("checking the password of %q: %w", name, err)
	}
	return u, nil
}

// SetPassword changes a password and ends the user's sessions.
func (s *Store) SetPassword(ctx context.Context, who, name, password string) error {
	hash, err := hashPassword(password)
	if err != nil {
		return invalid("changing the password of %q: %w", name, err)
	}
	return s.changeUser(ctx, who, name, "changed the password of user %q", func(t *tx, id, now int64) error {
		_, err := t.exec(`UPDATE users SET password = ?, changed = ? WHERE id = ?`, hash, now, id)
		return err
	}, false)
}

// SetRole changes a role and ends the user's sessions.
func (s *Store) SetRole(ctx context.Context, who, name string, role Role) error {
	if _, err := ParseRole(string(role)); err != nil {
		return invalid("changing the role of %q: %w", name, err)
	}
	return s.changeUser(ctx, who, name, "made user %q "+string(role), func(t *tx, id, _ int64) error {
		_, err := t.exec(`UPDATE users SET role = ? WHERE id = ?`, role, id)
		return err
	}, role != Admin)
}

// DeleteUser deletes a user and ends the user's sessions.
func (s *Store) DeleteUser(ctx context.Context, who, name string) error {
	return s.changeUser(ctx, who, name, "deleted user %q", func(t *tx, id, _ int64) error {
		_, err := t.exec(`DELETE FROM users WHERE id = ?`, id)
		return err
	}, true)
}

// changeUser does what all changes of a user have in common. The error is
// ErrLastAdmin if weaker and nobody else is an administrator.
func (s *Store) changeUser(ctx context.Context, who, name, what string, do func(t *tx, id, now int64) error, weaker bool) error {
	return s.update(ctx, func(t *tx) error {
		var id int64
		var role Role
		if err := t.scan(`SELECT id, role FROM users WHERE name = ?`, []any{name}, &id, &role); err != nil {
			return orNotFound(err, "user %q", name)
		}
		if weaker && role == Admin {
			var admins int
			if err := t.scan(`SELECT count(*) FROM users WHERE role = ?`, []any{Admin}, &admins); err != nil {
				return err
			}
			if admins < 2 {
				return fmt.Errorf("user %q: %w", name, ErrLastAdmin)
			}
		}
		now := micros(s.now())
		if err := do(t, id, now); err != nil {
			return err
		}
		if _, err := t.exec(`DELETE FROM sessions WHERE user = ?`, id); err != nil {
			return err
		}
		return t.change(now, who, what, name)
	})
}

// Session is a user who signed in.
type Session struct {
	User    User
	Kind    SessionKind
	Created time.Time
	Used    time.Time // last, roughly
	Expires time.Time
}

// SessionKind keeps a browser's session from being used as an API token and
// the other way round: only a browser is protected against other sites.
type SessionKind string

const (
	Cookie SessionKind = "cookie"
	Bearer SessionKind = "bearer"
)

// AddSession starts a session and returns its secret.
func (s *Store) AddSession(ctx context.Context, user User, kind SessionKind, life time.Duration) (secret string, err error) {
	secret = newSecret("")
	return secret, s.update(ctx, func(t *tx) error {
		now := s.now()
		if _, err := t.exec(`DELETE FROM sessions WHERE expires < ?`, micros(now)); err != nil {
			return err
		}
		_, err := t.exec(`INSERT INTO sessions (hash, user, kind, created, used, expires) VALUES (?, ?, ?, ?, ?, ?)`,
			hashSecret(secret), user.ID, kind, micros(now), micros(now), micros(now.Add(life)))
		return err
	})
}

// sessionGrain is how exactly the last use of a session is known.
const sessionGrain = time.Minute

// Session returns the session of a secret and notes its use. The error is
// ErrNotFound if there is none, it expired, or nobody used it for idle.
func (s *Store) Session(ctx context.Context, secret string, kind SessionKind, idle time.Duration) (Session, error) {
	ses := Session{Kind: kind}
	hash, now := hashSecret(secret), s.now()
	var created, used, expires int64
	row := s.reads.QueryRowContext(ctx, `SELECT `+userColumns+`, s.created, s.used, s.expires
		FROM sessions s JOIN users u ON u.id = s.user WHERE s.hash = ? AND s.kind = ?`, hash, kind)
	if err := scanUser(row.Scan, &ses.User, &created, &used, &expires); err != nil {
		return Session{}, orNotFound(err, "session")
	}
	ses.Created, ses.Used, ses.Expires = fromMicros(created), fromMicros(used), fromMicros(expires)
	if !now.Before(ses.Expires) || now.Sub(ses.Used) > idle {
		return Session{}, fmt.Errorf("session expired: %w", ErrNotFound)
	}
	if now.Sub(ses.Used) > sessionGrain {
		return ses, s.update(ctx, func(t *tx) error {
			_, err := t.exec(`UPDATE sessions SET used = ? WHERE hash = ?`, micros(now), hash)
			return err
		})
	}
	return ses, nil
}

// DeleteSession ends a session. It is no error if there is none.
func (s *Store) DeleteSession(ctx context.Context, secret string) error {
	return s.update(ctx, func(t *tx) error {
		_, err := t.exec(`DELETE FROM sessions WHERE hash = ?`, hashSecret(secret))
		return err
	})
}
