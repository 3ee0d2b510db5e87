package boltdb

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
)

// A page header is the page's number, its kind, the count of its elements (2 bytes each), and how many further pages
// belong to it (4 bytes). An element is 16 bytes: that of a branch is where its key lies, counted from the element, the
// key's length (4 bytes each) and the number of a page; that of a leaf is flags, where its key lies, the key's length and
// that of the value behind it. A bucket's value begins with the number of its first page, or 0 if its one page follows.
const (
	pageKind     = 8
	pageCount    = 10
	pageOverflow = 12
	kindBranch   = 1
	kindLeaf     = 2
	kindFreelist = 16

	elementSize    = 16
	elementBucket  = 1
	bucketOverhead = 16

	// A list of free pages is their numbers, ascending, in 8 bytes each. A count that does not fit in the header stands before
	// them, as freelistLong says.
	freelistLong = 0xFFFF
	pageNumber   = 8
)

// verifier reads what a transaction can reach, page by page.
type verifier struct {
	file      io.ReaderAt
	pageSize  uint64
	highWater uint64
	seen      []bool
}

// bucketRoot is a bucket's name and first page; 0: it has none of its own.
type bucketRoot struct {
	name []byte
	page uint64
}

// maxStrays bounds how many pages are named that are neither used nor free.
const maxStrays = 10

// verify reads every page of the state that m is of, and calls problem for what is damaged, until that returns false.
// bbolt trusts what it reads: what it meets in a damaged file, also in goroutines of its own, can end the process.
func verify(file io.ReaderAt, m meta, problem func(error) bool) {
	v := &verifier{file, m.pageSize, m.highWater, make([]bool, m.highWater)}
	v.seen[0], v.seen[1] = true, true
	sound := true
	buckets, err := v.tree(m.root, nil, nil, nil)
	if err == nil && len(buckets) > 0 && !slices.ContainsFunc(buckets, func(b bucketRoot) bool { return bytes.Equal(b.name, bucketFormat) }) {
		err = foreign(buckets[0].name)
	}
	if err != nil {
		problem(err)
		return
	}
	for len(buckets) > 0 {
		last := buckets[len(buckets)-1]
		buckets = buckets[:len(buckets)-1]
		if last.page == 0 {
			continue
		}
		if buckets, err = v.tree(last.page, nil, nil, buckets); err != nil {
			sound = false
			if !problem(err) {
				return
			}
		}
	}
	// What lies below a damaged page would look like neither used nor free.
	if sound && m.freelist != noFreelist {
		v.free(m.freelist, problem)
	}
}

// free compares the list of free pages with those that are used.
func (v *verifier) free(list uint64, problem func(error) bool) {
	page, err := v.page(list, kindFreelist)
	if err != nil {
		problem(err)
		return
	}
	ids := page[pageHeader:]
	count := uint64(binary.NativeEndian.Uint16(page[pageCount:]))
	if count == freelistLong {
		count = binary.NativeEndian.Uint64(ids)
		ids = ids[pageNumber:]
	}
	if count > uint64(len(ids)/pageNumber) {
		problem(v.damaged(list, "has more free pages than room"))
		return
	}
	for i := range count {
		free := binary.NativeEndian.Uint64(ids[i*pageNumber:])
		if free >= v.highWater {
			err = v.damaged(list, fmt.Sprintf("has a free page %d that lies behind the last", free))
		} else if v.seen[free] {
			err = v.damaged(free, "is free and used, or free twice")
		}
		if err != nil {
			if !problem(err) {
				return
			}
			err = nil
			continue
		}
		v.seen[free] = true
	}
	strays := 0
	for number, seen := range v.seen {
		if !seen && strays < maxStrays {
			strays++
			if !problem(v.damaged(uint64(number), "is neither used nor free")) {
				return
			}
		}
	}
}

// tree reads a page and all below it, whose keys are at least first and less than end (nil: any), and adds the buckets in
// it to those found.
func (v *verifier) tree(number uint64, first, end []byte, found []bucketRoot) ([]bucketRoot, error) {
	page, err := v.page(number, kindBranch|kindLeaf)
	if err != nil {
		return nil, err
	}
	elements, err := v.elements(number, page)
	if err != nil {
		return nil, err
	}
	if n := len(elements); n > 0 && (bytes.Compare(elements[0].key, first) < 0 || end != nil && bytes.Compare(elements[n-1].key, end) >= 0) {
		return nil, v.damaged(number, "has keys of another page")
	}
	for i, e := range elements {
		switch {
		case e.child != 0:
			childEnd := end
			if i+1 < len(elements) {
				childEnd = elements[i+1].key
			}
			if found, err = v.tree(e.child, e.key, childEnd, found); err != nil {
				return nil, err
			}
		case e.bucket:
			b, err := v.bucket(number, e)
			if err != nil {
				return nil, err
			}
			found = append(found, b)
		}
	}
	return found, nil
}

// bucket looks at a bucket's value, and at the page in it if that is all the bucket has.
func (v *verifier) bucket(number uint64, e element) (bucketRoot, error) {
	if len(e.value) < bucketOverhead {
		return bucketRoot{}, v.damaged(number, "has a bucket that is too short")
	}
	b := bucketRoot{bytes.Clone(e.key), binary.NativeEndian.Uint64(e.value)}
	if b.page != 0 {
		return b, nil
	}
	page := e.value[bucketOverhead:]
	if len(page) < pageHeader || binary.NativeEndian.Uint16(page[pageKind:]) != kindLeaf {
		return b, v.damaged(number, "has a bucket without a page")
	}
	elements, err := v.elements(number, page)
	if slices.ContainsFunc(elements, func(e element) bool { return e.bucket }) {
		err = v.damaged(number, "has a bucket in a bucket without a page of its own")
	}
	return b, err
}

// element is what a leaf, or a branch, has under a key.
type element struct {
	key, value []byte
	bucket     bool
	child      uint64 // of a branch; never 0
}

// elements takes a page apart. The number is for what it says if that cannot be done.
func (v *verifier) elements(number uint64, page []byte) ([]element, error) {
	order := binary.NativeEndian
	elements := make([]element, order.Uint16(page[pageCount:]))
	if pageHeader+len(elements)*elementSize > len(page) {
		return nil, v.damaged(number, "has more elements than room")
	}
	leaf := order.Uint16(page[pageKind:]) == kindLeaf
	for i := range elements {
		raw := page[pageHeader+i*elementSize:]
		head := raw
		if leaf {
			head = raw[4:]
		}
		key := uint64(order.Uint32(head))
		value := key + uint64(order.Uint32(head[4:]))
		end := value
		if leaf {
			end += uint64(order.Uint32(head[8:]))
		}
		if end > uint64(len(raw)) {
			return nil, v.damaged(number, "has an element that ends behind it")
		}
		e := element{key: raw[key:value], value: raw[value:end]}
		if i > 0 && bytes.Compare(elements[i-1].key, e.key) >= 0 {
			return nil, v.damaged(number, "has keys that do not ascend")
		}
		if leaf {
			e.bucket = order.Uint32(raw)&elementBucket != 0
		} else if e.child = order.Uint64(raw[8:]); e.child == 0 {
			return nil, v.damaged(number, "has a branch to nowhere")
		}
		elements[i] = e
	}
	return elements, nil
}

// page reads a page of these kinds that was not read before, with the further pages that belong to it.
func (v *verifier) page(number uint64, kinds uint16) ([]byte, error) {
	if number >= v.highWater {
		return nil, v.damaged(number, "lies behind the last")
	}
	order := binary.NativeEndian
	page := make([]byte, v.pageSize)
	if _, err := v.file.ReadAt(page, int64(number*v.pageSize)); err != nil {
		return nil, err
	}
	kind, count, overflow := order.Uint16(page[pageKind:]), order.Uint16(page[pageCount:]), uint64(order.Uint32(page[pageOverflow:]))
	switch {
	case order.Uint64(page) != number:
		return nil, v.damaged(number, "has another page's number")
	case kind&kinds == 0 || kind&(kind-1) != 0 || kind == kindBranch && count == 0:
		return nil, v.damaged(number, "is not of the kind that belongs there")
	case number+overflow >= v.highWater:
		return nil, v.damaged(number, "ends behind the last")
	}
	for n := number; n <= number+overflow; n++ {
		if v.seen[n] {
			return nil, v.damaged(n, "has two places")
		}
		v.seen[n] = true
	}
	if overflow > 0 {
		page = make([]byte, (overflow+1)*v.pageSize)
		if _, err := v.file.ReadAt(page, int64(number*v.pageSize)); err != nil {
			return nil, err
		}
	}
	return page, nil
}

func (v *verifier) damaged(page uint64, what string) error {
	return fmt.Errorf("%w: damaged: page %d %s", ErrFormat, page, what)
}
