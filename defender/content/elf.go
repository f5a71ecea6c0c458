package content

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"runtime"
	"slices"
	"strings"
)

// program is what the headers of an ELF file say (elf(5)).
type program struct {
	typ     elf.Type
	machine elf.Machine
	code    []span
	odd     string // what in them keeps tools from reading what the kernel runs
}

// runs reports whether it is a program or library, and no object, core or
// module.
func (p *program) runs() bool { return p.typ == elf.ET_EXEC || p.typ == elf.ET_DYN }

// natives are the machines whose programs run on a processor.
var natives = map[string][]elf.Machine{
	"amd64": {elf.EM_X86_64, elf.EM_386},
	"arm64": {elf.EM_AARCH64, elf.EM_ARM},
}

// devices run programs of their own, which lie in caches of graphics drivers
// and the like.
var devices = []elf.Machine{elf.EM_BPF, elf.EM_CUDA, elf.EM_AMDGPU, 205 /* Intel graphics */, 251 /* NEC VE */}

// foreign names the processor that a program is for, if it is not this one.
func (p *program) foreign() string {
	if slices.Contains(natives[runtime.GOARCH], p.machine) || slices.Contains(devices, p.machine) || p.odd == oddOrder {
		return ""
	}
	return strings.ToLower(strings.TrimPrefix(p.machine.String(), "EM_"))
}

const (
	oddOrder   = "the byte order is not that of the file"
	oddClass   = "the class is not that of the file"
	oddVersion = "the version is none"
	oddPadding = "there is something in the padding"
	oddSize    = "the header's size is wrong"
	oddOverlap = "the program headers lie in the file header"
	oddFar     = "the program headers lie far from the file header"
	oddTable   = "the section headers lie outside of the file"
	oddNames   = "the table of section names is none"
	oddWrite   = "a segment can be both written to and executed"
	oddEntry   = "the entry lies in no code"
)

// readELF reads the headers of a file of a number of bytes, as the kernel does:
// that looks neither at the class nor at the byte order in the first bytes,
// nor at sections. Tools for analysis do.
func readELF(head []byte, size int64) (p program, ok bool) {
	if !bytes.HasPrefix(head, []byte(elf.ELFMAG)) || len(head) < 52 {
		return p, false
	}
	var order binary.ByteOrder = binary.LittleEndian
	if head[elf.EI_DATA] == byte(elf.ELFDATA2MSB) {
		order = binary.BigEndian
	}
	odd := func(is bool, what string) {
		if is && p.odd == "" {
			p.odd = what
		}
	}
	native := natives[runtime.GOARCH]
	isNative := func(order binary.ByteOrder) bool {
		return slices.Contains(native, elf.Machine(order.Uint16(head[18:])))
	}
	if !isNative(order) && isNative(binary.LittleEndian) || head[elf.EI_DATA] != byte(elf.ELFDATA2LSB) && head[elf.EI_DATA] != byte(elf.ELFDATA2MSB) {
		order = binary.LittleEndian
		odd(true, oddOrder)
	}
	p.typ, p.machine = elf.Type(order.Uint16(head[16:])), elf.Machine(order.Uint16(head[18:]))
	if !p.runs() {
		return p, true
	}
	wide := head[elf.EI_CLASS] == byte(elf.ELFCLASS64)
	switch p.machine {
	case elf.EM_X86_64: // with 32-bit headers it is of the x32 ABI
		if !wide && head[elf.EI_CLASS] != byte(elf.ELFCLASS32) || !wide && order.Uint16(head[40:]) != 52 {
			wide = true
			odd(true, oddClass)
		}
	case elf.EM_AARCH64:
		odd(!wide, oddClass)
		wide = true
	case elf.EM_386, elf.EM_ARM:
		odd(head[elf.EI_CLASS] != byte(elf.ELFCLASS32), oddClass)
		wide = false
	}
	if wide && len(head) < 64 {
		return p, true
	}
	odd(head[elf.EI_VERSION] != byte(elf.EV_CURRENT) || order.Uint32(head[20:]) != uint32(elf.EV_CURRENT), oddVersion)
	odd(elf.OSABI(head[elf.EI_OSABI]) != elf.ELFOSABI_FREEBSD && !bytes.Equal(head[9:16], make([]byte, 7)), oddPadding)
	h := headerOf(head, order, wide)
	odd(h.size != h.wantSize, oddSize)
	odd(h.phnum > 0 && h.phoff < uint64(h.wantSize), oddOverlap)
	odd(h.shnum > 0 && (h.shentsize != h.wantSection || h.shoff == 0), oddTable)
	odd(h.shoff > uint64(size) || h.shnum*h.shentsize > uint64(size)-h.shoff, oddTable)
	odd(h.shnum > 0 && h.shstrndx >= h.shnum && h.shstrndx != uint64(elf.SHN_XINDEX), oddNames)
	if h.phoff > uint64(len(head)) || h.phnum*h.wantSegment > uint64(len(head))-h.phoff {
		odd(true, oddFar)
		return p, true
	}
	inCode := false
	for i := range h.phnum {
		s := segmentOf(head[h.phoff+i*h.wantSegment:], order, wide)
		if s.typ != elf.PT_LOAD {
			continue
		}
		if s.flags&elf.PF_X == 0 {
			continue
		}
		odd(s.flags&elf.PF_W != 0, oddWrite)
		inCode = inCode || h.entry-s.addr < s.memory
		if from, to := int64(s.offset), int64(s.offset+s.file); from >= 0 && from < to {
			p.code = append(p.code, span{from, min(to, size)})
		}
	}
	odd(h.entry != 0 && !inCode && h.phnum > 0, oddEntry)
	return p, true
}

// header is a file header of either class.
type header struct {
	entry, phoff, shoff               uint64
	size                              int
	phnum, shentsize, shnum, shstrndx uint64
	wantSize                          int
	wantSegment, wantSection          uint64
}

func headerOf(b []byte, order binary.ByteOrder, wide bool) header {
	h := header{wantSize: 52, wantSegment: 32, wantSection: 40}
	at := 40 // of e_ehsize
	if wide {
		h = header{wantSize: 64, wantSegment: 56, wantSection: 64}
		h.entry, h.phoff, h.shoff = order.Uint64(b[24:]), order.Uint64(b[32:]), order.Uint64(b[40:])
		at = 52
	} else {
		h.entry, h.phoff, h.shoff = uint64(order.Uint32(b[24:])), uint64(order.Uint32(b[28:])), uint64(order.Uint32(b[32:]))
	}
	h.size = int(order.Uint16(b[at:]))
	h.phnum, h.shentsize = uint64(order.Uint16(b[at+4:])), uint64(order.Uint16(b[at+6:]))
	h.shnum, h.shstrndx = uint64(order.Uint16(b[at+8:])), uint64(order.Uint16(b[at+10:]))
	return h
}

// segment is a program header of either class.
type segment struct {
	typ                        elf.ProgType
	flags                      elf.ProgFlag
	offset, addr, file, memory uint64
}

func segmentOf(b []byte, order binary.ByteOrder, wide bool) segment {
	s := segment{typ: elf.ProgType(order.Uint32(b))}
	if wide {
		s.flags = elf.ProgFlag(order.Uint32(b[4:]))
		s.offset, s.addr, s.file, s.memory = order.Uint64(b[8:]), order.Uint64(b[16:]), order.Uint64(b[32:]), order.Uint64(b[40:])
		return s
	}
	s.flags = elf.ProgFlag(order.Uint32(b[24:]))
	s.offset, s.addr, s.file, s.memory = uint64(order.Uint32(b[4:])), uint64(order.Uint32(b[8:])), uint64(order.Uint32(b[16:])), uint64(order.Uint32(b[20:]))
	return s
}
