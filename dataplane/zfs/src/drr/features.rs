//! What a stream needs its receiver to know: `DMU_BACKUP_FEATURE_*`.

use std::{fmt, ops::BitOr};

/// The feature bits of a stream's first record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StreamFeatures(pub u64);

impl StreamFeatures {
    /// None.
    pub const NONE: Self = Self(0);
    /// Blocks that repeat earlier ones are references (`send -D`).
    pub const DEDUP: Self = Self(1 << 0);
    /// Such references carry the properties of their block.
    pub const DEDUP_PROPERTIES: Self = Self(1 << 1);
    /// System attributes may spill into a block of their own.
    pub const SPILL: Self = Self(1 << 2);
    /// Tiny blocks lie in their block pointers (`send -e`).
    pub const EMBEDDED: Self = Self(1 << 16);
    /// Something in it is compressed with LZ4.
    pub const LZ4: Self = Self(1 << 17);
    /// Blocks of more than 128 KiB (`send -L`).
    pub const LARGE_BLOCKS: Self = Self(1 << 19);
    /// It goes on where an earlier one broke off (`send -t`).
    pub const RESUMING: Self = Self(1 << 20);
    /// Parts of the snapshot are left out.
    pub const REDACTED: Self = Self(1 << 21);
    /// Blocks are sent as they lie on disk, compressed (`send -c`).
    pub const COMPRESSED: Self = Self(1 << 22);
    /// Nodes of more than 512 bytes.
    pub const LARGE_DNODES: Self = Self(1 << 23);
    /// Blocks are sent as they lie on disk, encrypted (`send -w`).
    pub const RAW: Self = Self(1 << 24);
    /// Something in it is compressed with zstd.
    pub const ZSTD: Self = Self(1 << 25);
    /// File names of up to 1023 bytes.
    pub const LONG_NAMES: Self = Self(1 << 28);
    /// Folders of more than 128 KiB in their short form.
    pub const LARGE_MICROZAP: Self = Self(1 << 29);

    const NAMES: [(Self, &str); 16] = [
        (Self::DEDUP, "dedup"),
        (Self::DEDUP_PROPERTIES, "dedup-properties"),
        (Self::SPILL, "spill"),
        (Self::EMBEDDED, "embedded"),
        (Self::LZ4, "lz4"),
        (Self::LARGE_BLOCKS, "large-blocks"),
        (Self::RESUMING, "resuming"),
        (Self::REDACTED, "redacted"),
        (Self::COMPRESSED, "compressed"),
        (Self::LARGE_DNODES, "large-dnodes"),
        (Self::RAW, "raw"),
        (Self::ZSTD, "zstd"),
        (Self(1 << 26), "holds"),
        (Self(1 << 27), "switch-to-large-blocks"),
        (Self::LONG_NAMES, "long-names"),
        (Self::LARGE_MICROZAP, "large-microzap"),
    ];

    /// Whether any of `others` is among them.
    pub fn intersects(self, others: Self) -> bool {
        self.0 & others.0 != 0
    }

    /// Those that are not among `known`.
    #[must_use]
    pub fn without(self, known: Self) -> Self {
        Self(self.0 & !known.0)
    }
}

impl BitOr for StreamFeatures {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Their names; bits without one as a number.
impl fmt::Display for StreamFeatures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = Self::NAMES.iter().filter(|(feature, _)| self.intersects(*feature));
        let mut words: Vec<String> = named.map(|(_, name)| (*name).to_owned()).collect();
        let rest = self.without(Self::NAMES.iter().fold(Self::NONE, |all, (feature, _)| all | *feature));
        if rest != Self::NONE {
            words.push(format!("bits {:#x}", rest.0));
        }
        f.write_str(if words.is_empty() { "none" } else { "" })?;
        f.write_str(&words.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_named() {
        assert_eq!(StreamFeatures::NONE.to_string(), "none");
        let some = StreamFeatures::RAW | StreamFeatures::LZ4 | StreamFeatures(1 << 40);
        assert_eq!(some.to_string(), "lz4, raw, bits 0x10000000000");
    }
}
