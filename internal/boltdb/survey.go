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

	elementSize    = 16
	elementBucket  = 1
	bucketOverhead = 16
)

// surveyor reads what a transaction can reach, page by page.
type surveyor struct {
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

// survey makes sure that bbolt can find the free pages of a file whose last commit left their list out: those that no
// bucket reaches. bbolt looks for them in a goroutine of its own, where what it meets in a damaged file ends the process
// (https://github.com/etcd-io/bbolt/blob/v1.5.0/db.go, freepages).
func survey(file io.ReaderAt, m meta) error {
	s := &surveyor{file, m.pageSize, m.highWater, make([]bool, m.highWater)}
	buckets, err := s.tree(m.root, nil, nil, nil)
	if err != nil {
		return err
	}
	if len(buckets) > 0 && !slices.ContainsFunc(buckets, func(b bucketRoot) bool { return bytes.Equal(b.name, bucketFormat) }) {
		return foreign(buckets[0].name)
	}
	// A disk reads faster in the order in which the pages lie than in that of the trees.
	if _, err := io.Copy(io.Discard, io.NewSectionReader(file, 0, int64(m.highWater*m.pageSize))); err != nil {
		return err
	}
	for len(buckets) > 0 {
		last := buckets[len(buckets)-1]
		buckets = buckets[:len(buckets)-1]
		if last.page == 0 {
			continue
		}
		if buckets, err = s.tree(last.page, nil, nil, buckets); err != nil {
			return err
		}
	}
	return nil
}

// tree reads a page and all below it, whose keys are at least first and less than end (nil: any), and adds the buckets in
// it to those found.
func (s *surveyor) tree(number uint64, first, end []byte, found []bucketRoot) ([]bucketRoot, error) {
	page, err := s.page(number)
	if err != nil {
		return nil, err
	}
	elements, err := s.elements(number, page)
	if err != nil {
		return nil, err
	}
	if n := len(elements); n > 0 && (bytes.Compare(elements[0].key, first) < 0 || end != nil && bytes.Compare(elements[n-1].key, end) >= 0) {
		return nil, s.damaged(number, "has keys of another page")
	}
	for i, e := range elements {
		switch {
		case e.child != 0:
			childEnd := end
			if i+1 < len(elements) {
				childEnd = elements[i+1].key
			}
			if found, err = s.tree(e.child, e.key, childEnd, found); err != nil {
				return nil, err
			}
		case e.bucket:
			b, err := s.bucket(number, e)
			if err != nil {
				return nil, err
			}
			found = append(found, b)
		}
	}
	return found, nil
}

// bucket looks at a bucket's value, and at the page in it if that is all the bucket has.
func (s *surveyor) bucket(number uint64, e element) (bucketRoot, error) {
	if len(e.value) < bucketOverhead {
		return bucketRoot{}, s.damaged(number, "has a bucket that is too short")
	}
	b := bucketRoot{bytes.Clone(e.key), binary.NativeEndian.Uint64(e.value)}
	if b.page != 0 {
		return b, nil
	}
	page := e.value[bucketOverhead:]
	if len(page) < pageHeader || binary.NativeEndian.Uint16(page[pageKind:]) != kindLeaf {
		return b, s.damaged(number, "has a bucket without a page")
	}
	elements, err := s.elements(number, page)
	if slices.ContainsFunc(elements, func(e element) bool { return e.bucket }) {
		err = s.damaged(number, "has a bucket in a bucket without a page of its own")
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
func (s *surveyor) elements(number uint64, page []byte) ([]element, error) {
	order := binary.NativeEndian
	elements := make([]element, order.Uint16(page[pageCount:]))
	if pageHeader+len(elements)*elementSize > len(page) {
		return nil, s.damaged(number, "has more elements than room")
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
			return nil, s.damaged(number, "has an element that ends behind it")
		}
		e := element{key: raw[key:value], value: raw[value:end]}
		if i > 0 && bytes.Compare(elements[i-1].key, e.key) >= 0 {
			return nil, s.damaged(number, "has keys that do not ascend")
		}
		if leaf {
			e.bucket = order.Uint32(raw)&elementBucket != 0
		} else if e.child = order.Uint64(raw[8:]); e.child == 0 {
			return nil, s.damaged(number, "has a branch to nowhere")
		}
		elements[i] = e
	}
	return elements, nil
}

// page reads a branch or a leaf that was not read before, with the further pages that belong to it.
func (s *surveyor) page(number uint64) ([]byte, error) {
	if number >= s.highWater {
		return nil, s.damaged(number, "lies behind the last")
	}
	order := binary.NativeEndian
	page := make([]byte, s.pageSize)
	if _, err := s.file.ReadAt(page, int64(number*s.pageSize)); err != nil {
		return nil, err
	}
	kind, count, overflow := order.Uint16(page[pageKind:]), order.Uint16(page[pageCount:]), uint64(order.Uint32(page[pageOverflow:]))
	switch {
	case order.Uint64(page) != number:
		return nil, s.damaged(number, "has another page's number")
	case kind != kindLeaf && (kind != kindBranch || count == 0):
		return nil, s.damaged(number, "is neither a branch nor a leaf")
	case number+overflow >= s.highWater:
		return nil, s.damaged(number, "ends behind the last")
	}
	for n := number; n <= number+overflow; n++ {
		if s.seen[n] {
			return nil, s.damaged(n, "has two places")
		}
		s.seen[n] = true
	}
	if overflow > 0 {
		page = make([]byte, (overflow+1)*s.pageSize)
		if _, err := s.file.ReadAt(page, int64(number*s.pageSize)); err != nil {
			return nil, err
		}
	}
	return page, nil
}

func (s *surveyor) damaged(page uint64, what string) error {
	return fmt.Errorf("%w: damaged: page %d %s", ErrFormat, page, what)
}
