package policy

import (
	"errors"
	"slices"
	"strings"
)

// selector is a Scope ready for matching.
type selector struct {
	images, containers, appIDs patterns
}

// newSelector prepares s and reports its faults under path.
func newSelector(s *Scope, path string, f *faults) *selector {
	return &selector{
		images:     newPatterns(s.Images, canonicalPattern, path+".images", f),
		containers: newPatterns(s.Containers, strings.ToLower, path+".containers", f),
		appIDs:     newPatterns(s.AppIDs, strings.ToLower, path+".appIDs", f),
	}
}

func (s *selector) matches(w Workload) bool {
	return s.images.match(imageNames(w.Image)...) &&
		s.containers.match(strings.ToLower(w.Container)) &&
		s.appIDs.match(strings.ToLower(w.AppID))
}

// patterns is one field of a scope.
type patterns struct {
	include, exclude []string
}

// newPatterns sorts entries by their sign and brings each into the form that
// canonical gives.
func newPatterns(entries []string, canonical func(string) string, path string, f *faults) patterns {
	var p patterns
	for i, s := range entries {
		if err := checkPattern(s); err != nil {
			f.addEntry(path, i, err)
			continue
		}
		if rest, ok := strings.CutPrefix(s, "-"); ok {
			p.exclude = append(p.exclude, canonical(rest))
		} else {
			p.include = append(p.include, canonical(s))
		}
	}
	return p
}

func checkPattern(s string) error {
	switch {
	case s == "":
		return errors.New("empty")
	case s == "-":
		return errors.New(`"-" excludes nothing; write what to exclude behind it`)
	case padded(s):
		return errPadded(s)
	}
	return nil
}

// match reports whether the field selects a value that goes by any of names.
// Exclusions are looked at first. A field of nothing but exclusions means
// everything else, as "*" beside them would. A value that is not known is the
// empty name, which only "*" matches.
func (p *patterns) match(names ...string) bool {
	if anyGlob(p.exclude, names) {
		return false
	}
	return len(p.include) == 0 || anyGlob(p.include, names)
}

// empty reports whether all that the field selects is excluded again. A "*" in a
// pattern to be excluded is only matched by another.
func (p *patterns) empty() bool {
	for _, pattern := range p.include {
		if !anyGlob(p.exclude, []string{pattern}) {
			return false
		}
	}
	return len(p.exclude) > 0 && (len(p.include) > 0 || slices.Contains(p.exclude, "*"))
}

func anyGlob(patterns, names []string) bool {
	for _, pattern := range patterns {
		for _, name := range names {
			if glob(pattern, name) {
				return true
			}
		}
	}
	return false
}

// imageNames returns the canonical names of an image, with registry and path.
//
// An image without tag and digest has the tag "latest", and one with that tag
// goes by its name without a tag too. One with both tag and digest goes by
// either alone:
//
//	nginx                → docker.io/library/nginx:latest, docker.io/library/nginx
//	nginx:1.27           → docker.io/library/nginx:1.27
//	ghcr.io/a/b:1@sha256:… → ghcr.io/a/b:1, ghcr.io/a/b:1@sha256:…, ghcr.io/a/b@sha256:…
func imageNames(image string) []string {
	if image == "" {
		return []string{""}
	}
	full := canonicalImage(strings.ToLower(image))
	tagged, digest, _ := strings.Cut(full, "@")
	repository, tag := tagged, ""
	if colon := strings.LastIndexByte(tagged, ':'); colon > strings.LastIndexByte(tagged, '/') {
		repository, tag = tagged[:colon], tagged[colon+1:]
	}

	var names []string
	if tag == "" && digest == "" {
		tag = "latest"
	}
	if tag != "" {
		names = append(names, repository+":"+tag)
	}
	if tag == "latest" {
		names = append(names, repository)
	}
	if digest != "" {
		names = append(names, full)
		if tag != "" {
			names = append(names, repository+"@"+digest)
		}
	}
	return names
}

// canonicalPattern brings an image pattern into the form of imageNames.
//
// A pattern with a star in its first component ("*", "*/nginx", "ghcr*/a") is
// taken as written, for the star may stand for a registry. A pattern of one
// component is an official image even then ("nginx*"), unless it begins with
// the star.
func canonicalPattern(pattern string) string {
	pattern = strings.ToLower(pattern)
	first, rest, slash := strings.Cut(pattern, "/")
	switch {
	case strings.HasPrefix(pattern, "*"), slash && strings.Contains(first, "*"):
		return pattern
	case slash && dockerHub(first) && strings.Contains(rest, "*"):
		return hub + "/" + rest // "docker.io/*" is all of it, not only the official images
	}
	return canonicalImage(pattern)
}

// canonicalImage writes the registry and path that a short name leaves out:
// "nginx" is docker.io/library/nginx, "a/b" is docker.io/a/b. A first
// component is a registry if it has a dot or a colon or is "localhost".
func canonicalImage(image string) string {
	first, rest, slash := strings.Cut(image, "/")
	switch {
	case !slash:
		return hub + "/library/" + image
	case dockerHub(first) && !strings.Contains(rest, "/"):
		return hub + "/library/" + rest
	case dockerHub(first):
		return hub + "/" + rest
	case strings.ContainsAny(first, ".:") || first == "localhost":
		return image
	}
	return hub + "/" + image
}

// hub is the registry of image names that name none.
const hub = "docker.io"

func dockerHub(registry string) bool { return registry == hub || registry == "index."+hub }
