//! Which file systems may be used by several machines at once.

use std::os::fd::OwnedFd;

/// Whether `fd` is on a network, cluster or FUSE file system; `false` if the system does not tell.
#[cfg(target_os = "linux")]
pub(crate) fn is_on_network(fd: &OwnedFd) -> bool {
    // The type of the field differs between architectures; the numbers have 32 bits.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the numbers have 32 bits")]
    rustix::fs::fstatfs(fd).is_ok_and(|stat| is_network_type(stat.f_type as u32))
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn is_on_network(_: &OwnedFd) -> bool {
    false
}

#[cfg(any(target_os = "linux", test))]
fn is_network_type(number: u32) -> bool {
    NETWORK_TYPES.iter().any(|(known, _)| *known == number)
}

/// `f_type` of `statfs(2)`. The numbers are those of `include/uapi/linux/magic.h` and of the sources of each file
/// system; coreutils lists the same ones as remote (`src/stat.c`, used by `tail -f`).
///
/// FUSE stands for all of its file systems: sshfs, gcsfuse, s3fs, GlusterFS, virtiofs. 9P is also the file system of a
/// gVisor sandbox. overlayfs is absent: the locks are those of its upper layer, which cannot be on NFS.
#[cfg(any(target_os = "linux", test))]
const NETWORK_TYPES: [(u32, &str); 25] = [
    (0x6969, "NFS"),
    (0xFF53_4D42, "CIFS"),
    (0xFE53_4D42, "SMB 2"),
    (0x517B, "SMB"),
    (0x6573_5546, "FUSE"),
    (0x0102_1997, "9P"),
    (0x00C3_6400, "Ceph"),
    (0x5346_414F, "AFS"),
    (0x6B41_4653, "kAFS"),
    (0x0BD0_0BD0, "Lustre"),
    (0x7461_636F, "OCFS2"),
    (0x0116_1970, "GFS2"),
    (0x4750_4653, "GPFS"),
    (0x1983_0326, "BeeGFS"),
    (0xAAD7_AAEA, "PanFS"),
    (0x7375_7245, "Coda"),
    (0x564C, "NCP"),
    (0xBEEF_DEAD, "SNFS"),
    (0x6163_6673, "ACFS"),
    (0xA501_FCF5, "VxFS"),
    (0x0131_11A8, "IBRIX"),
    (0x7C7C_6673, "Parallels shared folders"),
    (0x786F_4256, "VirtualBox shared folders"),
    (0xBACB_ACBC, "VMware shared folders"),
    (0x2030_528D, "OrangeFS"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_file_systems_are_not_on_the_network() {
        // ext4, xfs, btrfs, tmpfs, overlayfs, ZFS, f2fs
        for local in [0xEF53, 0x5846_5342, 0x9123_683E, 0x0102_1994, 0x794C_7630, 0x2FC1_2FC1, 0xF2F5_2010] {
            assert!(!is_network_type(local), "{local:#x}");
        }
        for network in [0x6969, 0xFF53_4D42, 0x6573_5546, 0x0102_1997] {
            assert!(is_network_type(network), "{network:#x}");
        }
    }

    #[test]
    fn no_number_stands_in_the_list_twice() {
        let mut numbers: Vec<_> = NETWORK_TYPES.iter().map(|(number, _)| number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), NETWORK_TYPES.len());
    }
}
