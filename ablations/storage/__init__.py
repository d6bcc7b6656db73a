"""What lies on disk, and how it is kept whole: files, locks, records, the plan of a results folder."""
