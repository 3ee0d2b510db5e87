package boltdb

const (
	// The file is allocated ahead in steps of an eighth of its size, within these bounds, in bytes.
	minAllocation = 256 << 10
	maxAllocation = 16 << 20
	// What large writes leave for small ones, and those for checkpoints, on a full disk, in bytes.
	roomForSmall       = 512 << 10
	roomForCheckpoints = 256 << 10
)

// reserve makes sure that a checkpoint of o finds room, in free pages or on the disk, and leaves some.
func (db *DB) reserve(o *overlay, leaves int64) error {
	free := int64(db.bolt.Stats().FreePageN) * int64(db.bolt.Info().PageSize)
	to := db.fileSize + max(0, db.checkpointPages(o)+leaves-free)
	if free < db.fileSize/2 {
		// What takes more than a page needs pages that lie side by side, and those that are free may be scattered. bbolt splits
		// no leaf of less than five keys, so next to a large value there may be four others, which are written with it; that there
		// are, and that all are as large, is seldom so for the largest.
		to += 2*o.large + min(2*o.large, 4*smallRecord)
	}
	if to <= db.allocated {
		return nil
	}
	ahead := min(max(db.fileSize/8, minAllocation), maxAllocation)
	if err := db.disk.Allocate(db.allocated, to+ahead); err != nil {
		// Close to the end of the disk there may be room for this one.
		if err := db.disk.Allocate(db.allocated, to); err != nil {
			return err
		}
		db.allocated = to
		return nil
	}
	db.allocated = to + ahead
	return nil
}

// checkpointPages is about what a checkpoint takes of the file at most, in bytes: pages that it changes are written to new
// places, and new ones are half full, but for those of what takes more than a page.
func (db *DB) checkpointPages(o *overlay) int64 {
	pageSize := int64(db.bolt.Info().PageSize)
	return (o.bytes-o.large)*9/4 + o.large*9/8 + min(int64(o.tree.Len())*pageSize, db.fileSize) + 24*pageSize
}
