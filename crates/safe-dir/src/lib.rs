//! A directory that only its owner can touch: owner-only modes, no symlinks, atomic publish, lock.
