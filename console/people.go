package console

import (
	"errors"
	"net/http"
	"time"

	"appdefender/console/store"
)

func (s *Server) getMe(w http.ResponseWriter, r *http.Request) error {
	return writeJSON(w, http.StatusOK, SessionOf(r).User)
}

func (s *Server) getUsers(w http.ResponseWriter, r *http.Request) error {
	users, err := s.store.Users(r.Context())
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, map[string]any{"users": users})
}

// refused makes the store's reasons against a name, password or token
// readable for the client.
func refused(err error) error {
	if err == nil || AsError(err).Status != http.StatusInternalServerError || !errors.Is(err, store.ErrInvalid) {
		return err
	}
	return Errorf(http.StatusBadRequest, "%v", err)
}

func (s *Server) postUser(w http.ResponseWriter, r *http.Request) error {
	var m struct {
		Name     string     `json:"name"`
		Role     store.Role `json:"role"`
		Password string     `json:"password"`
	}
	if err := readJSON(r, &m); err != nil {
		return err
	}
	if err := s.store.AddUser(r.Context(), Who(r), m.Name, m.Role, m.Password); err != nil {
		return refused(err)
	}
	u, err := s.store.User(r.Context(), m.Name)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusCreated, u)
}

func (s *Server) patchUser(w http.ResponseWriter, r *http.Request) error {
	var m struct {
		Role     store.Role `json:"role"`
		Password string     `json:"password"`
	}
	if err := readJSON(r, &m); err != nil {
		return err
	}
	name := r.PathValue("name")
	if m.Role == "" && m.Password == "" {
		return Errorf(http.StatusBadRequest, "nothing to change: give a role or a password")
	}
	if m.Role != "" {
		if err := s.store.SetRole(r.Context(), Who(r), name, m.Role); err != nil {
			return refused(err)
		}
	}
	if m.Password != "" {
		if err := s.store.SetPassword(r.Context(), Who(r), name, m.Password); err != nil {
			return refused(err)
		}
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) deleteUser(w http.ResponseWriter, r *http.Request) error {
	if err := s.store.DeleteUser(r.Context(), Who(r), r.PathValue("name")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// ChangePassword changes the password of who asks, who must know the old one.
// All their sessions end.
func (s *Server) ChangePassword(r *http.Request, old, password string) error {
	u := SessionOf(r).User
	if _, err := s.checkPassword(r, u.Name, old); err != nil {
		if AsError(err).Status == http.StatusUnauthorized {
			return Errorf(http.StatusForbidden, "the old password is wrong")
		}
		return err
	}
	return refused(s.store.SetPassword(r.Context(), u.Name, u.Name, password))
}

func (s *Server) postPassword(w http.ResponseWriter, r *http.Request) error {
	var m struct {
		Old string `json:"old"`
		New string `json:"new"`
	}
	if err := readJSON(r, &m); err != nil {
		return err
	}
	if err := s.ChangePassword(r, m.Old, m.New); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) getTokens(w http.ResponseWriter, r *http.Request) error {
	tokens, err := s.store.Tokens(r.Context())
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, map[string]any{"tokens": append([]store.Token{}, tokens...)})
}

// postToken answers with the token's secret, this once.
func (s *Server) postToken(w http.ResponseWriter, r *http.Request) error {
	var m struct {
		Name    string    `json:"name"`
		Expires time.Time `json:"expires"`
		Uses    *int      `json:"uses"`
	}
	if err := readJSON(r, &m); err != nil {
		return err
	}
	secret, err := s.store.AddToken(r.Context(), Who(r), store.Token{Name: m.Name, Expires: m.Expires, Uses: m.Uses})
	if err != nil {
		return refused(err)
	}
	return writeJSON(w, http.StatusCreated, map[string]string{"name": m.Name, "token": secret})
}

func (s *Server) deleteToken(w http.ResponseWriter, r *http.Request) error {
	if err := s.store.DeleteToken(r.Context(), Who(r), r.PathValue("name")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) getChanges(w http.ResponseWriter, r *http.Request) error {
	before, err := parseUint(r.URL.Query().Get("before"))
	if err != nil {
		return Errorf(http.StatusBadRequest, "before: %v", err)
	}
	all, err := s.store.Changes(r.Context(), int64(min(before, 1<<63-1)), 100)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, map[string]any{"changes": all})
}
