package inject

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

// In a Dockerfile what is ours stands between two comments, at the end of the
// stage that is protected and, if files must be written, before it. No line of
// the owner's is touched.
const (
	blockBegin = `# >>> appdefender: written by "defenderctl embed dockerfile", which also takes it out again (--remove)`
	blockEnd   = `# <<< appdefender`
	blockState = `# appdefender.state `

	// buildStage is the stage that writes the Defender's files.
	buildStage = "appdefender"
)

// fileState is what a protected Dockerfile keeps.
type fileState struct {
	Version string `json:"version,omitempty"`
	Hash    string `json:"original-sha256,omitempty"`
	// Glued says that the original does not end in a line break.
	Glued bool `json:"glued,omitempty"`

	Image, Console, TokenSecret, Token, CA, Policy, DataDir, AppID, Name, Target, Context string            `json:",omitempty"`
	Wait                                                                                  *time.Duration    `json:",omitempty"`
	BuildArgs                                                                             map[string]string `json:",omitempty"`
	OnFailure                                                                             string            `json:",omitempty"`
	FileMonitoring                                                                        *bool             `json:",omitempty"`

	// Base is what is known of the image that the stage is made from, if what
	// it starts is not all in the Dockerfile.
	Base *Image `json:",omitempty"`
}

// file is a Dockerfile as far as we understand it.
type file struct {
	faults
	data   []byte
	lines  []int // where each begins, and the end
	escape rune
	global []string // ARGs before the first FROM, as NAME=VALUE
	stages []*stage
}

// stage is a FROM and what follows it.
type stage struct {
	name, from string // from is expanded
	base       *stage // nil if it is an image
	from1      *parser.Node
	cmds       []*parser.Node
	onbuild    []string
}

// start is what an image starts, and how its shell forms are read.
type start struct {
	entry, cmd, shell []string
	known             bool // entry and cmd are; else they are the base image's
}

func readDockerfile(data []byte, o *Options) (*file, error) {
	f := &file{data: data, lines: []int{0}}
	for i, c := range data {
		if c == '\n' {
			f.lines = append(f.lines, i+1)
		}
	}
	f.lines = append(f.lines, len(data))
	res, err := parser.Parse(bytes.NewReader(data))
	if err != nil {
		fault := Fault{Msg: "is no Dockerfile: " + err.Error()}
		if m := dockerLine.FindStringSubmatch(err.Error()); m != nil {
			fault.Line, _ = strconv.Atoi(m[1])
			fault.Col = 1
		}
		f.faults = append(f.faults, fault)
		return nil, f.err()
	}
	f.escape = res.EscapeToken
	for _, n := range res.AST.Children {
		switch key := strings.ToLower(n.Value); {
		case key == "from":
			f.from(n, o)
		case len(f.stages) > 0:
			s := f.stages[len(f.stages)-1]
			s.cmds = append(s.cmds, n)
			if key == "onbuild" {
				// The trigger is the rest of the line.
				_, trigger, _ := strings.Cut(strings.TrimSpace(n.Original), " ")
				s.onbuild = append(s.onbuild, strings.TrimSpace(trigger))
			}
		case key == "arg":
			for a := n.Next; a != nil; a = a.Next {
				name, value, has := strings.Cut(a.Value, "=")
				if given, ok := o.BuildArgs[name]; ok {
					value, has = given, true
				}
				if !has {
					continue
				}
				value, _, _ = shell.NewLex(f.escape).ProcessWord(value, shell.EnvsFromSlice(f.global))
				f.global = append(f.global, name+"="+value)
			}
		default:
			f.bad(n, fmt.Sprintf("%s stands before the first FROM", strings.ToUpper(key)))
		}
	}
	if len(f.stages) == 0 {
		f.add("", "has no FROM: there is nothing to protect")
	}
	return f, f.err()
}

var dockerLine = regexp.MustCompile(`line (\d+)`)

func (f *file) bad(n *parser.Node, msg string) {
	f.faults = append(f.faults, Fault{Line: n.StartLine, Col: 1, Msg: msg})
}

func (f *file) from(n *parser.Node, o *Options) {
	s := &stage{from1: n}
	f.stages = append(f.stages, s)
	if n.Next == nil {
		f.bad(n, "FROM has no image")
		return
	}
	word, unset, err := shell.NewLex(f.escape).ProcessWord(n.Next.Value, shell.EnvsFromSlice(f.global))
	if err != nil || len(unset) > 0 || word == "" {
		f.bad(n, fmt.Sprintf("%q: an ARG in it has no value; give it with --build-arg", n.Next.Value))
		return
	}
	s.from = word
	if as := n.Next.Next; as != nil && strings.EqualFold(as.Value, "as") && as.Next != nil {
		s.name = as.Next.Value
	}
	for _, earlier := range f.stages[:len(f.stages)-1] {
		if earlier.name != "" && strings.EqualFold(earlier.name, word) {
			s.base = earlier
		}
	}
	if s.base == nil && windowsImage.MatchString(word) {
		f.bad(n, fmt.Sprintf("%q is an image of Windows: the defender supervises Linux containers only", word))
	}
}

var windowsImage = regexp.MustCompile(`(?i)(^|/)windows(/|:|$)|nanoserver|windowsservercore`)

// target returns the stage to protect: the last, or the one of that name or
// number.
func (f *file) target(name string) (int, bool) {
	if name == "" {
		return len(f.stages) - 1, true
	}
	for i, s := range f.stages {
		if strings.EqualFold(s.name, name) {
			return i, true
		}
	}
	i, err := strconv.Atoi(name)
	if err == nil && i >= 0 && i < len(f.stages) {
		return i, true
	}
	names := []string{}
	for _, s := range f.stages {
		if s.name != "" {
			names = append(names, s.name)
		}
	}
	f.add("", fmt.Sprintf("has no stage %q; the named ones are %q", name, names))
	return 0, false
}

// startOf returns what an image of stage s starts.
//
// Docker's rules: CMD and ENTRYPOINT hold until the next of their kind; an
// ENTRYPOINT forgets a CMD that came with the stage's base, but not one of the
// stage itself; a shell form is the SHELL's words and one more.
func (f *file) startOf(s *stage, base *Image) start {
	st := start{shell: []string{"/bin/sh", "-c"}}
	var triggers []string
	switch {
	case s.base != nil:
		st, triggers = f.startOf(s.base, base), s.base.onbuild
	case strings.EqualFold(s.from, "scratch"):
		st.known = true
	case base != nil:
		st.entry, st.cmd, st.known, triggers = base.Entrypoint, base.Command, true, base.OnBuild
		if len(base.Shell) > 0 {
			st.shell = base.Shell
		}
	}
	ownCmd := false
	for _, trigger := range triggers {
		res, err := parser.Parse(strings.NewReader(trigger))
		if err != nil {
			f.bad(s.from1, fmt.Sprintf("its base has the trigger ONBUILD %s, which cannot be read: %v", trigger, err))
			continue
		}
		for _, n := range res.AST.Children {
			st.apply(n, &ownCmd)
		}
	}
	for _, n := range s.cmds {
		st.apply(n, &ownCmd)
	}
	return st
}

func (st *start) apply(n *parser.Node, ownCmd *bool) {
	var words []string
	for a := n.Next; a != nil; a = a.Next {
		words = append(words, a.Value)
	}
	switch key := strings.ToLower(n.Value); {
	case key == "shell" && len(words) > 0:
		st.shell = words
	case key != "entrypoint" && key != "cmd":
		return
	case !n.Attributes["json"] && len(words) > 0:
		words = append(slices.Clone(st.shell), words...)
	}
	switch strings.ToLower(n.Value) {
	case "entrypoint":
		st.entry = words
		if !*ownCmd {
			st.cmd = nil
		}
		st.known = true
	case "cmd":
		st.cmd, *ownCmd = words, true
	}
}

// baseOf returns the image that s is made from in the end; "" if none.
func baseOf(s *stage) (image string, from *parser.Node) {
	for s.base != nil {
		s = s.base
	}
	if strings.EqualFold(s.from, "scratch") {
		return "", s.from1
	}
	return s.from, s.from1
}

func embedDockerfile(text []byte, o Options) ([]byte, *Report, error) {
	original, had, err := stripDockerfile(text)
	if err != nil {
		return nil, nil, err
	}
	o = o.inheritFile(had)
	f, err := readDockerfile(original, &o)
	if err != nil {
		return nil, nil, err
	}
	var optionFaults faults
	o.validateFile(&optionFaults)
	i, ok := f.target(o.Target)
	if !ok {
		return nil, nil, append(optionFaults, f.faults...).err()
	}
	s := f.stages[i]
	st, base := f.resolve(s, &o, had)
	f.check(i, &o)
	if err := append(optionFaults, f.faults...).err(); err != nil {
		return nil, nil, err
	}
	if o.AppID == "" {
		name := s.name
		if name == "" {
			name = "app"
		}
		o.AppID = name + ":" + NewUUID()
	}
	out := f.write(i, st, base, &o)
	rep := &Report{
		AppID: o.AppID, Containers: []Container{{Name: s.name, Image: s.from, Argv: slices.Concat(st.entry, st.cmd)}},
		Changed: []string{fmt.Sprintf("stage %d, %q", i, s.name)},
	}
	rep.Notes = o.fileNotes("Dockerfile and its image")
	if slices.ContainsFunc(s.onbuild, func(t string) bool {
		return strings.HasPrefix(strings.ToUpper(t), "ENTRYPOINT") || strings.HasPrefix(strings.ToUpper(t), "CMD")
	}) {
		rep.note("An ONBUILD of this stage sets what images made from it start: protect those, too.")
	}
	if err := f.prove(out, i, st, &o); err != nil {
		return nil, nil, fmt.Errorf("checking the result, which is not written: %w", err)
	}
	if bytes.Equal(out, text) {
		rep.Changed = nil
	}
	return out, rep, nil
}

// resolve finds what the stage starts. It returns the image that this is from,
// if it is not all in the Dockerfile.
func (f *file) resolve(s *stage, o *Options, had *fileState) (start, *Image) {
	entry, hasEntry := o.Entrypoints[""]
	cmd, hasCmd := o.Commands[""]
	st := f.startOf(s, nil)
	image, from := baseOf(s)
	if st.known {
		if hasEntry || hasCmd {
			f.bad(from, "what the image starts is in the Dockerfile; leave the options entrypoint and command away")
		}
		return f.something(s, st), nil
	}
	var base Image
	switch {
	case hasEntry && (hasCmd || len(st.cmd) > 0):
		base = Image{Entrypoint: entry, Command: cmd}
	case hasEntry || hasCmd:
		f.bad(from, "both ENTRYPOINT and CMD of the base are needed: give --entrypoint and --command, [] if it has none")
		return st, nil
	case had != nil && had.Base != nil && had.Base.Of == image:
		base = *had.Base
	case o.Lookup == nil:
		f.bad(from, fmt.Sprintf(`nothing here says what the image starts, so that is in its base %q, which was not looked up; write ENTRYPOINT into the Dockerfile, or give --lookup, or --entrypoint '["…"]' and --command '["…"]' with the base's, [] if it has none`, image))
		return st, nil
	default:
		var err error
		if base, err = o.Lookup(image); err != nil {
			f.bad(from, fmt.Sprintf("looking up what its base %q starts: %v; give --entrypoint and --command instead", image, err))
			return st, nil
		}
	}
	base.Of = image
	return f.something(s, f.startOf(s, &base)), &base
}

func (f *file) something(s *stage, st start) start {
	if len(st.entry)+len(st.cmd) == 0 {
		f.bad(s.from1, "the image would start nothing: neither ENTRYPOINT nor CMD has a word")
	}
	if len(st.entry) > 0 && strings.HasPrefix(st.entry[0], Dir+"/") {
		f.bad(s.from1, fmt.Sprintf("its ENTRYPOINT begins with %q, which is in the defender's own folder; take it out", st.entry[0]))
	}
	if StartsDefender(slices.Concat(st.entry, st.cmd)) {
		f.bad(s.from1, "the image "+DefenderTwice)
	}
	return st
}

// check refuses what a stage of ours would break.
func (f *file) check(target int, o *Options) {
	if !o.needsStage() {
		return
	}
	for i, s := range f.stages {
		if strings.EqualFold(s.name, buildStage) {
			f.bad(s.from1, fmt.Sprintf("%q is what the defender's own stage is called", buildStage))
		}
		if i <= target {
			continue
		}
		for _, n := range s.cmds {
			for _, flag := range n.Flags {
				number, ok := strings.CutPrefix(flag, "--from=")
				if k, err := strconv.Atoi(number); ok && err == nil && k >= target {
					f.bad(n, fmt.Sprintf("%s is a stage by its number, which will change; give the stage a name", flag))
				}
			}
		}
	}
}

// needsStage reports whether files must be written that no image has.
func (o *Options) needsStage() bool { return o.Context == "" && len(o.CA)+len(o.Policy) > 0 }

// write returns the protected Dockerfile.
func (f *file) write(i int, st start, base *Image, o *Options) []byte {
	e := editor{data: f.data}
	nl := e.newline()
	s := f.stages[i]
	last := s.from1
	if len(s.cmds) > 0 {
		last = s.cmds[len(s.cmds)-1]
	}
	end := f.lines[min(last.EndLine, len(f.lines)-1)]
	glued := end > 0 && f.data[end-1] != '\n'

	var lines []string
	if o.needsStage() {
		words := []string{"/defender", "install"}
		if len(o.CA) > 0 {
			words = append(words, "--ca-text", string(o.CA))
		}
		if len(o.Policy) > 0 {
			words = append(words, "--policy-text", string(o.Policy))
		}
		at := f.lines[s.from1.StartLine-1]
		e.splice("", at, at, strings.Join([]string{
			blockBegin, "FROM " + o.DefenderImage + " AS " + buildStage, "USER 0",
			"RUN " + execForm(strs(append(words, "/appdefender")...)), blockEnd, "",
		}, nl))
		lines = append(lines, "COPY --from="+buildStage+" /appdefender "+Dir)
	} else if o.Context != "" {
		lines = append(lines, "COPY "+execForm(strs(strings.TrimSuffix(o.Context, "/")+"/", Dir+"/")))
	} else {
		lines = append(lines, "COPY --from="+o.DefenderImage+" /defender "+Program)
	}
	for _, v := range o.fileVariables() {
		lines = append(lines, "ENV "+v[0]+"="+f.quote(v[1]))
	}
	lines = append(lines, "ENTRYPOINT "+execForm(strs(slices.Concat(prefix, st.entry)...)))
	if len(st.cmd) > 0 {
		lines = append(lines, "CMD "+execForm(strs(st.cmd...)))
	}
	kept := o.fileState()
	kept.Hash, kept.Glued, kept.Base = digest(f.data), glued, base
	state, err := json.Marshal(kept)
	if err != nil {
		panic(err) // strings
	}
	lines = slices.Concat([]string{blockBegin}, lines, []string{blockState + string(state), blockEnd})
	text := strings.Join(lines, nl)
	if glued {
		text = nl + text
	} else {
		text += nl
	}
	e.splice("", end, end, text)
	return e.bytes()
}

// quote returns a value for ENV, in which nothing is expanded.
func (f *file) quote(s string) string {
	var b strings.Builder
	for _, r := range s {
		if r == '"' || r == '$' || r == f.escape {
			b.WriteRune(f.escape)
		}
		b.WriteRune(r)
	}
	return `"` + b.String() + `"`
}

// execForm returns words as a list in JSON.
func execForm(words list) string { return style{colon: ": ", blank: " "}.write(words) }

// prove reads the result as a builder will.
func (f *file) prove(out []byte, target int, st start, o *Options) error {
	g, err := readDockerfile(out, o)
	if err != nil {
		return err
	}
	mine := false
	i := target
	if o.needsStage() {
		i++
		mine = true
	}
	if len(g.stages) != len(f.stages)+i-target || mine && g.stages[target].name != buildStage {
		return fmt.Errorf("it has %d stages", len(g.stages))
	}
	now := g.startOf(g.stages[i], nil)
	if !slices.Equal(now.entry, slices.Concat(prefix, st.entry)) || !slices.Equal(now.cmd, st.cmd) {
		return fmt.Errorf("it would start %q with %q", now.entry, now.cmd)
	}
	for k, s := range f.stages {
		at := k
		if k >= target {
			at += i - target
		}
		for j, n := range slices.Concat([]*parser.Node{s.from1}, s.cmds) {
			others := slices.Concat([]*parser.Node{g.stages[at].from1}, g.stages[at].cmds)
			if j >= len(others) || others[j].Dump() != n.Dump() || !slices.EqualFunc(others[j].Heredocs, n.Heredocs, func(a, b parser.Heredoc) bool { return a == b }) {
				return fmt.Errorf("line %d would be read differently", n.StartLine)
			}
		}
		if k != target && len(g.stages[at].cmds) != len(s.cmds) {
			return fmt.Errorf("stage %d would change", k)
		}
	}
	back, _, err := stripDockerfile(out)
	if err != nil {
		return err
	}
	if !bytes.Equal(back, f.data) {
		return fmt.Errorf("removing the protection would not give the original back")
	}
	return nil
}

// stripDockerfile takes our blocks out.
func stripDockerfile(text []byte) ([]byte, *fileState, error) {
	var f faults
	var out []byte
	var state *fileState
	inside, line := false, 0
	for part := range bytes.Lines(text) {
		line++
		word := strings.TrimRight(string(part), "\r\n")
		switch {
		case word == blockBegin:
			if inside {
				f = append(f, Fault{Line: line, Col: 1, Msg: "begins what embedding has written a second time; take it out by hand"})
			}
			inside = true
		case !inside && word == blockEnd:
			f = append(f, Fault{Line: line, Col: 1, Msg: "ends what embedding has written, but the beginning is gone; take the rest out by hand"})
		case !inside:
			out = append(out, part...)
		case word == blockEnd:
			inside = false
		case strings.HasPrefix(word, blockState):
			state = new(fileState)
			if err := json.Unmarshal([]byte(strings.TrimPrefix(word, blockState)), state); err != nil {
				f = append(f, Fault{Line: line, Col: 1, Msg: "is not what embedding wrote: " + err.Error()})
			}
		}
	}
	if inside {
		f = append(f, Fault{Line: line, Col: 1, Msg: "what embedding has written does not end; take it out by hand"})
	}
	if state != nil && state.Glued {
		out = bytes.TrimSuffix(bytes.TrimSuffix(out, []byte("\n")), []byte("\r"))
	}
	return out, state, f.err()
}

func removeDockerfile(text []byte) ([]byte, *Report, error) {
	out, had, err := stripDockerfile(text)
	if err != nil {
		return nil, nil, err
	}
	rep := &Report{Exact: true}
	switch {
	case had == nil:
		rep.note("The definition was not protected.")
	default:
		rep.AppID, rep.Exact = had.AppID, digest(out) == had.Hash
		rep.Changed = []string{"the defender's lines"}
		if !rep.Exact {
			rep.note("The definition has been changed since it was protected; the changes stay.")
		}
	}
	return out, rep, nil
}

// inheritFile fills what the options leave out with what the file had.
func (o Options) inheritFile(had *fileState) Options {
	if had == nil {
		return o
	}
	for to, from := range map[*string]string{
		&o.DefenderImage: had.Image, &o.Console: had.Console, &o.DataDir: had.DataDir, &o.AppID: had.AppID, &o.Target: had.Target, &o.Context: had.Context,
		&o.OnFailure: had.OnFailure,
	} {
		if *to == "" {
			*to = from
		}
	}
	if o.Token == "" && o.TokenSecret == "" {
		o.Token, o.TokenSecret = had.Token, had.TokenSecret
	}
	if o.CA == nil && had.CA != "" {
		o.CA = []byte(had.CA)
	}
	if o.Policy == nil && had.Policy != "" {
		o.Policy = []byte(had.Policy)
	}
	if o.Wait == nil {
		o.Wait = had.Wait
	}
	if o.FileMonitoring == nil {
		o.FileMonitoring = had.FileMonitoring
	}
	if o.BuildArgs == nil {
		o.BuildArgs = had.BuildArgs
	}
	if o.Images == nil && had.Name != "" {
		o.Images = map[string]string{"": had.Name}
	}
	return o
}

// validateFile adds the faults of options for a Dockerfile, whose container
// may get its token when it is started.
func (o *Options) validateFile(f *faults) {
	check := *o
	if check.Console != "" && check.Token == "" && check.TokenSecret == "" {
		check.TokenSecret = "later"
	}
	if o.Context != "" && check.DefenderImage == "" {
		check.DefenderImage = "context"
	}
	check.validate(f)
	for name := range o.named() {
		if name != "" {
			f.add("", fmt.Sprintf("an option names the container %q; a Dockerfile has one, which needs no name", name))
		}
	}
}
