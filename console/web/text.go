package web

import (
	"fmt"
	"html/template"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// funcs are what the templates call.
func funcs(now func() time.Time) template.FuncMap {
	return template.FuncMap{
		"ago":    func(t time.Time) string { return ago(now().Sub(t)) },
		"icon":   icon,
		"plain":  plain,
		"plural": plural,
		"rfc":    func(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) },
		"utc":    func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05") },
		"add":    func(a, b int) int { return a + b },
	}
}

// plain makes characters visible that would turn or hide the text beside
// them. A Defender escapes them already, but a Defender may lie.
func plain(s string) string {
	if !strings.ContainsFunc(s, hidden) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if hidden(r) {
			b.WriteString(strings.Trim(strconv.QuoteRuneToASCII(r), "'"))
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

func hidden(r rune) bool {
	return r != '\n' && (unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Co))
}

// plural returns a number and its noun: "no rules", "1 rule", "2 rules".
func plural(n int, noun string) string {
	switch n {
	case 0:
		return "no " + noun + "s"
	case 1:
		return "1 " + noun
	}
	return strconv.Itoa(n) + " " + noun + "s"
}

// ago says how long ago something was. The script app.js says the same as the
// time goes on.
func ago(d time.Duration) string {
	switch {
	case d < 5*time.Second:
		return "just now"
	case d < time.Minute:
		return fmt.Sprintf("%d s ago", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h ago", int(d.Hours()))
	}
	return fmt.Sprintf("%d days ago", int(d.Hours()/24))
}

// icons are paths in a box of 24 by 24, drawn as lines.
var icons = map[string]string{
	"alert":    "M12 9v4m0 4h.01M10.3 3.9 2.5 17.4A2 2 0 0 0 4.2 20.4h15.6a2 2 0 0 0 1.7-3L13.7 3.9a2 2 0 0 0-3.4 0z",
	"activity": "M3 12h4l3-8 4 16 3-8h4",
	"back":     "M15 18l-6-6 6-6",
	"check":    "M4 12.5l5 5L20 6.5",
	"chevron":  "M9 6l6 6-6 6",
	"copy":     "M9 9h10a1 1 0 0 1 1 1v10a1 1 0 0 1-1 1H9a1 1 0 0 1-1-1V10a1 1 0 0 1 1-1zM5 15H4a1 1 0 0 1-1-1V4a1 1 0 0 1 1-1h10a1 1 0 0 1 1 1v1",
	"cube":     "M12 2.8l8 4.6v9.2l-8 4.6-8-4.6V7.4zM4.2 7.5 12 12l7.8-4.5M12 12v9",
	"down":     "M12 5v14m-6-6 6 6 6-6",
	"download": "M12 4v11m-5-5 5 5 5-5M4 20h16",
	"history":  "M3.5 12a8.5 8.5 0 1 0 2.6-6.1L3 9m0-5v5h5m4-1v4.5l3 2",
	"key":      "M12.5 15a4.5 4.5 0 1 1-9 0 4.5 4.5 0 0 1 9 0zM11.2 11.8 20 3m-4.5 4.5 3 3",
	"lock":     "M6 11h12a1 1 0 0 1 1 1v8a1 1 0 0 1-1 1H6a1 1 0 0 1-1-1v-8a1 1 0 0 1 1-1zM8 11V7a4 4 0 0 1 8 0v4",
	"out":      "M9 4H5a1 1 0 0 0-1 1v14a1 1 0 0 0 1 1h4m6-4 4-4-4-4m4 4H9",
	"pause":    "M8 5v14M16 5v14",
	"plus":     "M12 5v14M5 12h14",
	"search":   "M11 4a7 7 0 1 1 0 14 7 7 0 0 1 0-14zm9.5 16.5L16 16",
	"shield":   "M12 2.8 4.5 5.6v6c0 4.6 3.1 8 7.5 9.6 4.4-1.6 7.5-5 7.5-9.6v-6z",
	"text":     "M4 6h16M4 10.5h11M4 15h16M4 19.5h8",
	"trash":    "M4 7h16M9.5 7V4h5v3M6.5 7l.8 13h9.4l.8-13M10 11v5m4-5v5",
	"up":       "M12 19V5m-6 6 6-6 6 6",
	"users":    "M9 11a3.5 3.5 0 1 0 0-7 3.5 3.5 0 0 0 0 7zM2.5 20c0-3.6 2.9-6 6.5-6s6.5 2.4 6.5 6M16 4.3a3.5 3.5 0 0 1 0 6.4M18.5 14.6c1.9.9 3 2.8 3 5.4",
	"x":        "M6 6l12 12M18 6 6 18",
}

// icon draws one; beside it there is always a text or a label.
func icon(name string) (template.HTML, error) {
	path, ok := icons[name]
	if !ok {
		return "", fmt.Errorf("there is no icon %q", name)
	}
	return template.HTML(`<svg class="icon" viewBox="0 0 24 24" aria-hidden="true"><path d="` + path + `"/></svg>`), nil
}
