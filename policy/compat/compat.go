// Package compat reads and writes the policy JSON of the system this project
// is compatible with. It is the only place that knows that system's property
// names; everything else sees native policies.
//
// Nothing is lost in silence. What a policy asks for and we cannot do is a
// fault, as is a key we do not know; the import then gives no policy at all.
// What says nothing to a Defender, such as a rule's notes, or what that system
// does unasked and we do not, is told as a note.
package compat

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
)

// Policy is the policy for App-Embedded Defenders.
type Policy struct {
	ID    string `json:"_id,omitempty"`
	Owner string `json:"owner,omitempty"`
	Rules []Rule `json:"rules"`
}

// PolicyID is the _id of a Policy.
const PolicyID = "appEmbeddedRuntime"

// Rule is one rule of a Policy.
type Rule struct {
	Name               string       `json:"name"`
	PreviousName       string       `json:"previousName"`
	Notes              string       `json:"notes,omitempty"`
	Owner              string       `json:"owner,omitempty"`
	Modified           string       `json:"modified,omitempty"`
	Disabled           bool         `json:"disabled"`
	Collections        []Collection `json:"collections"`
	Resources          *Resources   `json:"resources,omitempty"` // what older rules have in place of collections
	AdvancedProtection bool         `json:"advancedProtection"`
	WildFireAnalysis   string       `json:"wildFireAnalysis,omitempty"`
	CustomRules        []CustomRule `json:"customRules,omitempty"`
	Processes          *Processes   `json:"processes,omitempty"`
	Network            *Network     `json:"network,omitempty"`
	DNS                *DNS         `json:"dns,omitempty"`
	Filesystem         *Filesystem  `json:"filesystem,omitempty"`
}

// Collection is a named scope.
type Collection struct {
	Name        string   `json:"name"`
	AppIDs      []string `json:"appIDs"`
	Images      []string `json:"images"`
	Containers  []string `json:"containers"`
	AccountIDs  []string `json:"accountIDs"`
	Clusters    []string `json:"clusters"`
	CodeRepos   []string `json:"codeRepos"`
	Functions   []string `json:"functions"`
	Hosts       []string `json:"hosts"`
	Labels      []string `json:"labels"`
	Namespaces  []string `json:"namespaces"`
	Color       string   `json:"color,omitempty"`
	Description string   `json:"description,omitempty"`
	Owner       string   `json:"owner,omitempty"`
	Modified    string   `json:"modified,omitempty"`
	System      bool     `json:"system"`
	Prisma      bool     `json:"prisma"`
}

// Resources are the scope inside of a rule, as it was before collections.
type Resources struct {
	Hosts      []string `json:"hosts"`
	Images     []string `json:"images"`
	Labels     []string `json:"labels"`
	Containers []string `json:"containers"`
	Namespaces []string `json:"namespaces"`
	Functions  []string `json:"functions"`
	Clusters   []string `json:"clusters"`
	AccountIDs []string `json:"accountIDs"`
	AppIDs     []string `json:"appIDs"`
}

// CustomRule attaches a custom rule.
type CustomRule struct {
	ID     int    `json:"_id"`
	Action string `json:"action"`
	Effect string `json:"effect"`
}

// Processes is the section of processes.
type Processes struct {
	Effect               string   `json:"effect"`
	Whitelist            []string `json:"whitelist"`
	Blacklist            []string `json:"blacklist"`
	CheckCryptoMiners    bool     `json:"checkCryptoMiners"`
	CheckLateralMovement bool     `json:"checkLateralMovement"`
	CheckNewBinaries     bool     `json:"checkNewBinaries"`
	SkipModified         bool     `json:"skipModified"`
	BlockAllBinaries     bool     `json:"blockAllBinaries"`
}

// Network is the section of connections and ports.
type Network struct {
	Effect                  string      `json:"effect"`
	WhitelistIPs            []string    `json:"whitelistIPs"`
	BlacklistIPs            []string    `json:"blacklistIPs"`
	WhitelistListeningPorts []PortRange `json:"whitelistListeningPorts"`
	BlacklistListeningPorts []PortRange `json:"blacklistListeningPorts"`
	WhitelistOutboundPorts  []PortRange `json:"whitelistOutboundPorts"`
	BlacklistOutboundPorts  []PortRange `json:"blacklistOutboundPorts"`
}

// PortRange is a range of ports, both ends included.
type PortRange struct {
	Start int  `json:"start"`
	End   int  `json:"end"`
	Deny  bool `json:"deny"`
}

// DNS is the section of lookups.
type DNS struct {
	Effect    string   `json:"effect"`
	Whitelist []string `json:"whitelist"`
	Blacklist []string `json:"blacklist"`
}

// Filesystem is the section of files.
type Filesystem struct {
	Effect                string   `json:"effect"`
	Whitelist             []string `json:"whitelist"`
	Blacklist             []string `json:"blacklist"`
	CheckNewFiles         bool     `json:"checkNewFiles"`
	BackdoorFiles         bool     `json:"backdoorFiles"`
	SkipEncryptedBinaries bool     `json:"skipEncryptedBinaries"`
	SuspiciousELFHeaders  bool     `json:"suspiciousELFHeaders"`
}

// Fault is one thing wrong with what was to be converted, or a note about it.
type Fault struct {
	Path string // of the value, e.g. "rules[0].dns.effect"; "" for the whole
	Msg  string
}

// String returns the fault as one line.
func (f Fault) String() string {
	if f.Path == "" {
		return f.Msg
	}
	return f.Path + ": " + f.Msg
}

// Errors are all faults of a conversion, at least one.
type Errors []Fault

// Error returns a line for each fault.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, f := range e {
		lines[i] = f.String()
	}
	return strings.Join(lines, "\n")
}

func (e *Errors) add(path, format string, args ...any) {
	*e = append(*e, Fault{path, fmt.Sprintf(format, args...)})
}

// decode reads data into v, the types above. A key that they lack or that
// stands there twice is a fault.
func decode(data []byte, v any, faults *Errors) {
	if !json.Valid(data) {
		var dummy any
		faults.add("", "this is no JSON: %v", json.Unmarshal(data, &dummy))
		return
	}
	checkKeys(json.NewDecoder(bytes.NewReader(data)), reflect.TypeOf(v).Elem(), "", faults)
	if len(*faults) > 0 {
		return
	}
	var wrong *json.UnmarshalTypeError
	switch err := json.Unmarshal(data, v); {
	case err == nil:
	case errors.As(err, &wrong):
		faults.add(wrong.Field, "a value of type %s does not belong here", wrong.Value)
	default:
		faults.add("", "%v", err)
	}
}

// checkKeys reads one value from d, which is valid, and reports keys that a
// value of type t does not have. A nil t is not looked into.
func checkKeys(d *json.Decoder, t reflect.Type, path string, faults *Errors) {
	if t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	token, err := d.Token()
	if err != nil {
		faults.add(path, "%v", err)
		return
	}
	switch token {
	case json.Delim('['):
		var elem reflect.Type
		if t != nil && t.Kind() == reflect.Slice {
			elem = t.Elem()
		}
		for i := 0; d.More(); i++ {
			checkKeys(d, elem, fmt.Sprintf("%s[%d]", path, i), faults)
		}
		_, _ = d.Token() // the end
	case json.Delim('{'):
		seen := make(map[string]bool)
		for d.More() {
			key, _ := d.Token()
			name, _ := key.(string)
			at := strings.TrimPrefix(path+"."+name, ".")
			field, known := fieldOf(t, name)
			switch {
			case t == nil || t.Kind() != reflect.Struct: // the wrong type, as Unmarshal will say
			case !known && ofContainers(name):
				faults.add(at, "unknown key: rules for containers have it; import a rule for App-Embedded Defenders")
			case !known:
				faults.add(at, "unknown key")
			case seen[name]:
				faults.add(at, "stands here twice")
			}
			seen[name] = true
			checkKeys(d, field, at, faults)
		}
		_, _ = d.Token() // the end
	}
}

// ofContainers reports whether a key is one of rules for containers, which are
// of another shape since release 22.12.
func ofContainers(key string) bool {
	return key == "allowedList" || key == "deniedList" || key == "learningDisabled" || strings.HasSuffix(key, "Effect")
}

// fieldOf returns the type of a struct's field by its key. Letter case counts,
// as it does not for package json.
func fieldOf(t reflect.Type, key string) (reflect.Type, bool) {
	if t == nil || t.Kind() != reflect.Struct {
		return nil, false
	}
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		if name == key {
			return t.Field(i).Type, true
		}
	}
	return nil, false
}
