//! Numbers of pages and nodes: a position, which page under it, which node of that page.

use crate::TreeError;

const INDEX_BITS: u32 = 8;
const PART_BITS: u32 = 14;
const LARGEST_POSITION: u64 = (1 << (63 - PART_BITS - INDEX_BITS)) - 1;

/// How many nodes a page has at most.
pub(crate) const NODES: usize = 1 << INDEX_BITS;

/// The number of a page: the position at which it was written, and which of the pages there it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageId(u64);

impl PageId {
    pub fn new(position: u64, part: u64) -> Result<Self, TreeError> {
        if position > LARGEST_POSITION || part >> PART_BITS != 0 {
            return Err(TreeError::TooLarge);
        }
        Ok(Self(position << PART_BITS | part))
    }

    pub fn from_number(number: u64) -> Result<Self, TreeError> {
        Self::new(number >> PART_BITS, number & ((1 << PART_BITS) - 1))
    }

    pub fn number(self) -> u64 {
        self.0
    }

    pub fn position(self) -> u64 {
        self.0 >> PART_BITS
    }

    pub(crate) fn node(self, index: u8) -> Address {
        Address(self.0 << INDEX_BITS | u64::from(index))
    }
}

/// The number of a node: its page and its index there. That of a root is the number of a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(u64);

impl Address {
    pub fn from_number(number: u64) -> Result<Self, TreeError> {
        PageId::from_number(number >> INDEX_BITS)?;
        Ok(Self(number))
    }

    pub fn number(self) -> u64 {
        self.0
    }

    pub fn page(self) -> PageId {
        PageId(self.0 >> INDEX_BITS)
    }

    pub(crate) fn index(self) -> u8 {
        u8::try_from(self.0 & 0xff).unwrap_or_default()
    }

    /// How the address is told apart from others at its position: part and index in one number.
    pub(crate) fn within(self) -> u64 {
        self.0 & ((1 << (PART_BITS + INDEX_BITS)) - 1)
    }

    pub(crate) fn at(position: u64, within: u64) -> Result<Self, TreeError> {
        if position > LARGEST_POSITION || within >> (PART_BITS + INDEX_BITS) != 0 {
            return Err(TreeError::TooLarge);
        }
        Ok(Self(position << (PART_BITS + INDEX_BITS) | within))
    }
}
