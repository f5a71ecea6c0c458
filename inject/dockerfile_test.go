package inject

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

// fileOptions protect a Dockerfile without a Console.
func fileOptions() Options {
	return Options{DefenderImage: "defender:1", Policy: []byte("version: 1\n"), AppID: "shop:1", Version: "1.0"}
}

func TestDockerfileStart(t *testing.T) {
	nginx := Image{Entrypoint: []string{"/docker-entrypoint.sh"}, Command: []string{"nginx", "-g", "daemon off;"}}
	tests := []struct {
		name, in   string
		change     func(*Options)
		entry, cmd string // the last lines of the result
	}{
		{"exec form", "FROM scratch\nENTRYPOINT [\"/a\", \"b\"]\nCMD [\"c\"]\n", nil, `"/a", "b"]`, `CMD ["c"]`},
		{"shell form", "FROM scratch\nENTRYPOINT exec serve $PORT\n", nil, `"/bin/sh", "-c", "exec serve $PORT"]`, ""},
		{"shell form keeps CMD as the shell would get it", "FROM scratch\nCMD [\"x\"]\nENTRYPOINT serve\n", nil, `"/bin/sh", "-c", "serve"]`, `CMD ["x"]`},
		{"CMD only", "FROM scratch\nCMD [\"/a\"]\n", nil, `"run", "--"]`, `CMD ["/a"]`},
		{"CMD only, shell form", "FROM scratch\nCMD serve \"$PORT\"\n", nil, `"run", "--"]`, `CMD ["/bin/sh", "-c", "serve \"$PORT\""]`},
		{"not quite JSON is a shell form", "FROM scratch\nENTRYPOINT ['a']\n", nil, `"/bin/sh", "-c", "['a']"]`, ""},
		{"SHELL", "FROM scratch\nSHELL [\"/bin/bash\", \"-o\", \"pipefail\", \"-c\"]\nCMD serve\n", nil, `"run", "--"]`, `CMD ["/bin/bash", "-o", "pipefail", "-c", "serve"]`},
		{"the last counts", "FROM scratch\nENTRYPOINT [\"/a\"]\nENTRYPOINT [\"/b\"]\n", nil, `"run", "--", "/b"]`, ""},
		{"an earlier stage's CMD is forgotten", "FROM scratch AS a\nCMD [\"x\"]\nFROM a\nENTRYPOINT [\"/b\"]\n", nil, `"run", "--", "/b"]`, ""},
		{"its own is not", "FROM scratch AS a\nCMD [\"x\"]\nFROM a\nCMD [\"y\"]\nENTRYPOINT [\"/b\"]\n", nil, `"run", "--", "/b"]`, `CMD ["y"]`},
		{"an earlier stage's ENTRYPOINT", "FROM scratch AS a\nENTRYPOINT [\"/b\"]\nFROM a\nCMD [\"y\"]\n", nil, `"run", "--", "/b"]`, `CMD ["y"]`},
		{"an earlier stage's SHELL", "FROM scratch AS a\nSHELL [\"/sh\"]\nFROM a\nCMD y\n", nil, `"run", "--"]`, `CMD ["/sh", "y"]`},
		{"ONBUILD of an earlier stage", "FROM scratch AS a\nONBUILD ENTRYPOINT [\"/late\"]\nFROM a\nCMD [\"y\"]\n", nil, `"run", "--", "/late"]`, `CMD ["y"]`},
		{"a lower case Dockerfile", "from scratch\nentrypoint [\"/a\"]\n", nil, `"run", "--", "/a"]`, ""},
		{"a base that is looked up", "FROM nginx\n", func(o *Options) { o.Lookup = func(string) (Image, error) { return nginx, nil } }, `"--", "/docker-entrypoint.sh"]`, `CMD ["nginx", "-g", "daemon off;"]`},
		{"a base that was told", "FROM nginx\nCMD [\"x\"]\n", func(o *Options) { o.Entrypoints = map[string][]string{"": {"/e"}} }, `"--", "/e"]`, `CMD ["x"]`},
		{"a base without ENTRYPOINT", "FROM nginx\nCMD [\"x\"]\n", func(o *Options) { o.Entrypoints = map[string][]string{"": {}} }, `"run", "--"]`, `CMD ["x"]`},
		{"a base with a trigger", "FROM nginx\n", func(o *Options) {
			o.Lookup = func(string) (Image, error) { return Image{OnBuild: []string{`ENTRYPOINT ["/t"]`}}, nil }
		}, `"--", "/t"]`, ""},
		{"a base with a shell", "FROM nginx\nCMD x\n", func(o *Options) {
			o.Lookup = func(string) (Image, error) { return Image{Shell: []string{"/zsh"}}, nil }
		}, `"run", "--"]`, `CMD ["/zsh", "x"]`},
		{"ENTRYPOINT makes the base's CMD go, so it need not be known", "FROM nginx\nENTRYPOINT [\"/a\"]\n", nil, `"--", "/a"]`, ""},
		{"a target by its name", "FROM scratch AS a\nENTRYPOINT [\"/a\"]\nFROM scratch AS b\nENTRYPOINT [\"/b\"]\n", func(o *Options) { o.Target = "A" }, `"--", "/a"]`, ""},
		{"a target by its number", "FROM scratch\nENTRYPOINT [\"/a\"]\nFROM scratch\nENTRYPOINT [\"/b\"]", func(o *Options) { o.Target = "0" }, `"--", "/a"]`, ""},
		{"ARG", "ARG V=1\nARG BASE=scratc${V:+h}\nFROM $BASE\nENTRYPOINT [\"/a\"]\n", nil, `"--", "/a"]`, ""},
		{"ARG given", "ARG BASE\nFROM ${BASE}\nCMD [\"/a\"]\n", func(o *Options) { o.BuildArgs = map[string]string{"BASE": "scratch"} }, `"run", "--"]`, `CMD ["/a"]`},
		{"heredoc", "# syntax=docker/dockerfile:1\nFROM scratch\nCOPY <<EOF /etc/x\nENTRYPOINT [\"/no\"]\n# >>> not ours\nEOF\nENTRYPOINT [\"/a\"]\n", nil, `"--", "/a"]`, ""},
		{"comments in continuations", "FROM scratch\nENTRYPOINT [\"/a\", \\\n# why\n  \"b\"]\n", nil, `"--", "/a", "b"]`, ""},
		{"another escape", "# escape=`\nFROM scratch\nENTRYPOINT [\"/a\", `\n \"b\"]\n", nil, `"--", "/a", "b"]`, ""},
		{"CRLF, tabs, no end", "FROM scratch\r\n\tENTRYPOINT [\"/a\"]\r\n# bye", nil, `"--", "/a"]`, ""},
		{"no line break at the end", "FROM scratch\nENTRYPOINT [\"/a\"]", nil, `"--", "/a"]`, ""},
		{"a byte order mark", "\ufeffFROM scratch\nENTRYPOINT [\"/a\"]\n", nil, `"--", "/a"]`, ""},
		{"files of the context", "FROM scratch\nUSER 1000\nENTRYPOINT [\"/a\"]\n", func(o *Options) { o.Context, o.DefenderImage = "appdefender", "" }, `"--", "/a"]`, ""},
		{"a Console", "FROM scratch\nENTRYPOINT [\"/a\"]\n", func(o *Options) { o.Console, o.TokenSecret, o.Policy = "https://c.example.com", "token", nil }, `"--", "/a"]`, ""},
		{"quotes", "FROM scratch\nENTRYPOINT [\"/a\"]\n", func(o *Options) { o.AppID = `a"$b\c` }, `"--", "/a"]`, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := fileOptions()
			if tt.change != nil {
				tt.change(&o)
			}
			out, rep, err := Embed(Dockerfile, []byte(tt.in), o)
			if err != nil {
				t.Fatal(err)
			}
			lines := strings.Split(strings.ReplaceAll(string(out), "\r", ""), "\n")
			entry, cmd := "", ""
			for i, line := range lines {
				if strings.HasPrefix(line, `ENTRYPOINT ["/var/lib/appdefender/defender", "run", "--"`) {
					entry = line
					if strings.HasPrefix(lines[i+1], "CMD ") {
						cmd = lines[i+1]
					}
				}
			}
			if !strings.HasSuffix(entry, tt.entry) || cmd != tt.cmd {
				t.Errorf("entry %s, want %s\ncmd %s, want %s", entry, tt.entry, cmd, tt.cmd)
			}
			if len(rep.Containers[0].Argv) == 0 {
				t.Errorf("%+v", rep)
			}
			back, undone, err := Remove(Dockerfile, out)
			if err != nil || string(back) != tt.in || !undone.Exact {
				t.Errorf("removed: %v, exact %v\n%q\n%q", err, undone != nil && undone.Exact, tt.in, back)
			}
			again, rep, err := Embed(Dockerfile, out, Options{Version: "1.0"})
			if err != nil || !bytes.Equal(again, out) || len(rep.Changed) > 0 {
				t.Errorf("again: %v\n%s\n%s", err, out, again)
			}
			// An upgrade changes our lines only.
			newer, _, err := Embed(Dockerfile, out, Options{Version: "2.0", DefenderImage: "defender:2"})
			if back, _, _ := Remove(Dockerfile, newer); err != nil || string(back) != tt.in {
				t.Errorf("upgraded: %v\n%s", err, newer)
			}
		})
	}
}

func TestDockerfileFaults(t *testing.T) {
	tests := []struct {
		name, in, want string
		change         func(*Options)
	}{
		{"nothing", "", "is no Dockerfile: file with no instructions", nil},
		{"no FROM", "RUN x\n", "1:1: RUN stands before the first FROM", nil},
		{"not closed", "FROM scratch\nRUN <<EOF\nx\n", "unterminated heredoc", nil},
		{"a base nobody knows", "FROM scratch AS a\nFROM nginx\nCMD [\"x\"]\n", `2:1: nothing here says what the image starts, so that is in its base "nginx"`, nil},
		{"half told", "FROM nginx\n", "1:1: both ENTRYPOINT and CMD of the base are needed", func(o *Options) { o.Entrypoints = map[string][]string{"": {"x"}} }},
		{"looked up in vain", "FROM nginx\n", `looking up what its base "nginx" starts: no network`, func(o *Options) {
			o.Lookup = func(string) (Image, error) { return Image{}, errors.New("no network") }
		}},
		{"told for nothing", "FROM scratch\nENTRYPOINT [\"x\"]\n", "leave the options entrypoint and command away", func(o *Options) { o.Entrypoints = map[string][]string{"": {"x"}} }},
		{"an ARG without a value", "ARG B\nFROM img:$B\n", `an ARG in it has no value`, func(o *Options) { o.BuildArgs = map[string]string{"C": "x"} }},
		{"an ARG of no one", "FROM img:$B\n", `"img:$B": an ARG in it has no value`, nil},
		{"Windows", "FROM mcr.microsoft.com/windows/servercore:ltsc2022\nCMD x\n", "is an image of Windows", nil},
		{"no such stage", "FROM scratch AS a\nCMD x\n", `has no stage "b"; the named ones are ["a"]`, func(o *Options) { o.Target = "b" }},
		{"nothing to start", "FROM scratch\n", "the image would start nothing", nil},
		{"our stage's name", "FROM scratch AS appdefender\nFROM scratch\nCMD x\n", `"appdefender" is what the defender's own stage is called`, nil},
		{"a number that would shift", "FROM scratch AS a\nCMD x\nFROM scratch\nCOPY --from=0 / /\n", "4:1: --from=0 is a stage by its number", func(o *Options) { o.Target = "a" }},
		{"half of ours", "FROM scratch\n# <<< appdefender\n", "2:1: ends what embedding has written", nil},
		{"the other half", "FROM scratch\n" + blockBegin + "\n", "2:1: what embedding has written does not end", nil},
		{"one by hand", "FROM scratch\nENTRYPOINT [\"/defender\", \"run\", \"--\"]\nCMD [\"nginx\"]\n", "the image starts a defender already", nil},
		{"ours by hand", "FROM scratch\nENTRYPOINT [\"/var/lib/appdefender/defender\", \"run\"]\n", "is in the defender's own folder", nil},
		{"a container's name", "FROM scratch\nCMD x\n", `an option names the container "web"`, func(o *Options) { o.Images = map[string]string{"web": "x"} }},
		{"an open end", "FROM scratch\nCMD x \\", "", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := fileOptions()
			if tt.change != nil {
				tt.change(&o)
			}
			out, _, err := Embed(Dockerfile, []byte(tt.in), o)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q\n%s", err, tt.want, out)
			}
		})
	}
}

func FuzzDockerfile(f *testing.F) {
	f.Add("FROM scratch\nENTRYPOINT [\"/a\"]\nCMD b")
	f.Add("# escape=`\r\nARG A=b\r\nFROM $A AS c\r\nRUN <<E\r\nx\r\nE\r\nFROM c\r\nCMD x `\r\n y\r\n")
	f.Fuzz(func(t *testing.T, in string) {
		o := fileOptions()
		o.Lookup = func(string) (Image, error) { return Image{Command: []string{"sh"}}, nil }
		out, _, err := Embed(Dockerfile, []byte(in), o)
		if err != nil {
			return
		}
		want, _, err := Remove(Dockerfile, []byte(in))
		if err != nil {
			t.Fatal(err)
		}
		if back, _, err := Remove(Dockerfile, out); err != nil || !bytes.Equal(back, want) {
			t.Errorf("not brought back: %v\n%q\n%q", err, want, back)
		}
		if again, _, err := Embed(Dockerfile, out, o); err != nil || !bytes.Equal(again, out) {
			t.Errorf("not stable: %v\n%s\n%s", err, out, again)
		}
	})
}
