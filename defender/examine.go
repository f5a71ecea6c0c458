package defender

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"appdefender/defender/content"
	"appdefender/defender/packages"
	"appdefender/defender/supervisor"
	"appdefender/policy"
)

// records are what package managers recorded of the image, read when a rule
// first asks for it: before the target starts, or with a policy that arrives
// later. What the target may have changed by then does not count.
type records struct {
	had  []string // the databases there were at the start
	once sync.Once
	read atomic.Pointer[packages.Database]
}

// readRecords reads the databases if a rule of e asks for them. trust is when
// the target started, zero before that.
func (d *Defender) readRecords(e *policy.Engine, trust time.Time) {
	if !(e.Needs() | d.learnt()).Has(policy.NeedPackages) {
		return
	}
	d.records.once.Do(func() {
		db := packages.Read("", d.records.had, trust)
		if err := db.Err(); err != nil {
			d.notice("what packages recorded is not known as a whole: %v", err)
		}
		d.records.read.Store(db)
	})
}

// examined is what was found out about one file of a program.
type examined struct {
	altered  bool
	unsure   policy.Needs
	contents policy.Contents
}

// examine finds out what rules ask about the content of a program's file.
func (d *Defender) examine(e *supervisor.Executable) any {
	needs := d.asked() & (policy.NeedPackages | policy.NeedProgramContent | policy.NeedProgramMalware)
	if !e.Changed().After(d.started) && !needs.Has(policy.NeedProgramMalware) {
		needs &^= policy.NeedProgramContent // what the image holds was put there
	}
	if needs == 0 {
		return nil
	}
	var x examined
	var err error
	if needs.Has(policy.NeedPackages) {
		if x.altered, err = d.altered(e); err != nil {
			x.unsure |= policy.NeedPackages
		}
	}
	if needs.Has(policy.NeedProgramContent) {
		if x.contents, err = d.contents(e); err != nil {
			x.unsure |= policy.NeedProgramContent
		}
	}
	return x
}

var errRecords = errors.New("what its package recorded is not known")

// altered reports whether a file is not as its package recorded it. What has
// no record belongs to no package, unless there may have been a record: then
// nobody can say, but of a file that is as it was at the start.
func (d *Defender) altered(e *supervisor.Executable) (bool, error) {
	db := d.records.read.Load()
	if db == nil {
		return false, errRecords
	}
	sums := db.Recorded(e.Name())
	if len(sums) == 0 {
		if db.Changed() && e.Changed().After(d.started) {
			return false, errRecords
		}
		return false, nil
	}
	for _, s := range sums {
		got, err := e.Digest(s.Hash())
		if err != nil {
			return false, err
		}
		if s.Is(got) {
			return false, nil
		}
	}
	return true, nil
}

// maxContents is the size of programs that are read to their end.
const maxContents = 1 << 30

// contentsOf is what the contents of a file are remembered by.
type contentsOf struct{}

// contents reads what a file holds, of what the image holds the digests alone:
// it was put there. There is no grace: what an entry point writes at
// the start was told of as well.
func (d *Defender) contents(e *supervisor.Executable) (policy.Contents, error) {
	if e.Size() > maxContents {
		return policy.Contents{}, errors.New("it is too large to be read")
	}
	got, err := e.Once(contentsOf{}, func(r io.Reader) (any, error) { return content.Read(r, e.Size()) })
	if err != nil {
		return policy.Contents{}, err
	}
	rep := got.(*content.Report)
	is := policy.Contents{Path: e.Name(), MD5: rep.MD5, SHA256: rep.SHA256}
	if e.Changed().After(d.started) {
		is.Findings = rep.Findings
	}
	return is, nil
}

// take puts what was found out about the files of p into ev.
func (x examined) take(ev *policy.Event) {
	ev.Program.Altered = ev.Program.Altered || x.altered
	ev.Unsure |= x.unsure
	if x.contents.SHA256 != "" {
		ev.Program.Contents = append(ev.Program.Contents, x.contents)
	}
}
