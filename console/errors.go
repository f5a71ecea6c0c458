package console

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"appdefender/console/store"
	"appdefender/wire"
)

// Error is what went wrong with a request: one text for the client, another
// for the log.
type Error struct {
	Status int
	Msg    string // for the client
	Err    error  // for the log, besides Msg; may be nil
	// Faults are what is wrong with a policy, one by one.
	Faults []Fault
	// RetryAfter tells the client when to try again; 0 does not.
	RetryAfter time.Duration
}

// Error returns what the log keeps.
func (e *Error) Error() string {
	if e.Err != nil {
		return e.Msg + ": " + e.Err.Error()
	}
	return e.Msg
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Errorf returns an error whose text the client may read.
func Errorf(status int, format string, args ...any) *Error {
	return &Error{Status: status, Msg: fmt.Sprintf(format, args...)}
}

// Fault is one thing wrong with a policy.
type Fault struct {
	Path string `json:"path"`           // of the value: "rules[0].dns.effect"; of one rule: "dns.effect"
	Line int    `json:"line,omitempty"` // from 1; 0 if the policy was no text
	Col  int    `json:"column,omitempty"`
	Msg  string `json:"message"`
}

// String returns the fault as one line.
func (f Fault) String() string {
	var b strings.Builder
	if f.Line > 0 {
		fmt.Fprintf(&b, "%d:%d: ", f.Line, f.Col)
	}
	if f.Path != "" {
		b.WriteString(f.Path + ": ")
	}
	return b.String() + f.Msg
}

// faulty is the error of a policy with faults.
func faulty(faults []Fault) *Error {
	lines := make([]string, len(faults))
	for i, f := range faults {
		lines[i] = f.String()
	}
	return &Error{Status: http.StatusBadRequest, Msg: strings.Join(lines, "\n"), Faults: faults}
}

// AsError gives any error of a handler a status and a text for the client.
func AsError(err error) *Error {
	var e *Error
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &e):
		return e
	case errors.As(err, &tooLarge):
		return &Error{Status: http.StatusRequestEntityTooLarge, Msg: fmt.Sprintf("the body is larger than %d bytes", tooLarge.Limit)}
	case errors.Is(err, store.ErrNotFound):
		return &Error{Status: http.StatusNotFound, Msg: err.Error()}
	case errors.Is(err, store.ErrExists), errors.Is(err, store.ErrConflict), errors.Is(err, store.ErrLastAdmin):
		return &Error{Status: http.StatusConflict, Msg: err.Error()}
	case errors.Is(err, store.ErrFull):
		return &Error{Status: http.StatusInsufficientStorage, Msg: store.ErrFull.Error(), Err: err, RetryAfter: 10 * time.Second}
	case errors.Is(err, errStopping), errors.Is(err, store.ErrClosed):
		return &Error{Status: http.StatusServiceUnavailable, Msg: errStopping.Error(), RetryAfter: time.Second}
	}
	return &Error{Status: http.StatusInternalServerError, Msg: "the Console could not do this; its log says why", Err: err}
}

// errorBody is what a client gets.
type errorBody struct {
	wire.Error
	Faults []Fault `json:"faults,omitempty"`
}

// fail writes an error to the client and to the log.
func (s *Server) fail(w *statusWriter, r *http.Request, route Route, err error) {
	if r.Context().Err() != nil || errors.Is(err, context.Canceled) {
		return // the client is gone
	}
	e := AsError(err)
	level := slog.LevelInfo
	switch {
	case e.Status >= 500:
		level = slog.LevelError
	case e.Status == http.StatusUnauthorized, e.Status == http.StatusForbidden, e.Status == http.StatusTooManyRequests:
		level = slog.LevelWarn
	}
	who := ""
	if ses := SessionOf(r); ses != nil {
		who = ses.User.Name
	}
	s.log.Log(r.Context(), level, "refused", "status", e.Status, "method", r.Method, "path", r.URL.Path, "who", who, "from", r.RemoteAddr, "error", e.Error())
	if w.begun {
		panic(http.ErrAbortHandler) // the client must not take half an answer for a whole one
	}
	if e.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(e.RetryAfter.Seconds()))))
	}
	switch {
	case route.Page && e.Status == http.StatusUnauthorized && r.Method == http.MethodGet:
		http.Redirect(w, r, signInAndBack(r), http.StatusSeeOther)
	case route.Page && s.ErrorPage != nil:
		s.ErrorPage(w, r, e.Status, e.Msg)
	case route.Page:
		http.Error(w, e.Msg, e.Status)
	default:
		if e.Status == http.StatusUnauthorized {
			w.Header().Set("WWW-Authenticate", "Bearer") // Basic would make browsers ask
		}
		_ = writeJSON(w, e.Status, errorBody{wire.Error{Message: e.Msg}, e.Faults})
	}
}

// writeJSON answers with a value as JSON.
func writeJSON(w http.ResponseWriter, status int, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n')) // if the client is gone, nobody minds
	return nil
}

// WriteFile answers with a file to keep, which no browser shows.
func WriteFile(w http.ResponseWriter, contentType, name string, data []byte) error {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": name}))
	_, _ = w.Write(data) // if the client is gone, nobody minds
	return nil
}

// readJSON decodes a body. Unknown keys are errors: a misspelt one would be
// ignored otherwise.
func readJSON(r *http.Request, v any) error { return decodeJSON(r.Body, v) }

// decodeJSON decodes the one value that there is to be.
func decodeJSON(body io.Reader, v any) error {
	d := json.NewDecoder(body)
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return badBody(err)
	}
	var tooLarge *http.MaxBytesError
	switch _, err := d.Token(); {
	case errors.Is(err, io.EOF):
		return nil
	case errors.As(err, &tooLarge):
		return err
	}
	return Errorf(http.StatusBadRequest, "reading the body: there is something behind the value")
}

func badBody(err error) error {
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return err
	}
	return Errorf(http.StatusBadRequest, "reading the body: %v", err)
}
