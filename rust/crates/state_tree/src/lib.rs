//! The state of a room as a persistent tree: nodes never change, and two states share what they have in common.
//!
//! A state maps the number of a pair of type and state key to the position of its event. The tree is a trie over the bits
//! of the pair's number, the lowest first: an inner node has a child for each value of the next `BITS` bits, a leaf
//! has up to `LEAF` entries. A change writes the nodes between the root and the leaves that it touches.
//!
//! The nodes that a change writes are one *page*, or several if they are many, and later changes of the same
//! transaction add to the page that their root is in. A node is addressed by its page and its index there; an address
//! only ever names an older page or the own one.
//!
//! Nothing here reads or writes: a [`Walk`] says which pages it needs, and is given them.

mod address;
mod cache;
mod difference;
mod find;
mod items;
mod page;
mod reach;
mod walk;
mod writer;

use std::fmt;

pub use address::{Address, PageId};
pub use cache::Cache;
pub use difference::Difference;
pub use find::Find;
pub use items::Items;
pub use page::{Node, Page};
pub use reach::Unreachable;
pub use walk::{Source, Walk};
pub use writer::{Change, Writer};

/// How many bits of a pair's number one inner node goes by.
pub const BITS: u32 = 2;

/// How many children an inner node has at most.
pub const SLOTS: usize = 1 << BITS;

/// How many entries a leaf has at most.
pub const LEAF: usize = 16;

/// What is wrong with a tree, or with what was asked of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TreeError {
    /// The bytes of a page are not those of a page.
    Corrupt(&'static str),
    /// A page was needed and not given.
    Missing(PageId),
    /// A position, or a change, is beyond what an address can name.
    TooLarge,
}

impl fmt::Display for TreeError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Corrupt(reason) => write!(formatter, "a page of the state tree is corrupt: {reason}"),
            Self::Missing(page) => write!(formatter, "page {} of the state tree is missing", page.number()),
            Self::TooLarge => formatter.write_str("a position or a change is too large for the state tree"),
        }
    }
}

impl std::error::Error for TreeError {}

/// An entry of a state: the pair's number and the position of its event.
pub type Entry = (u64, i64);

const MASK: u64 = (1 << BITS) - 1;
const MAX_DEPTH: u32 = u64::BITS.div_ceil(BITS);

/// Which child of an inner node at this depth leads to the pair.
fn slot_of(pair: u64, depth: u32) -> usize {
    usize::try_from(rest_of(pair, depth) & MASK).unwrap_or_default()
}

/// What the nodes above this depth do not tell of the pair.
fn rest_of(pair: u64, depth: u32) -> u64 {
    pair.checked_shr(depth * BITS).unwrap_or_default()
}

/// The pair of an entry in a leaf at this depth, below the slots that `prefix` is made of.
fn pair_of(prefix: u64, rest: u64, depth: u32) -> Result<u64, TreeError> {
    match rest.checked_shl(depth * BITS) {
        Some(high) if rest_of(high, depth) == rest => Ok(prefix | high),
        None if rest == 0 => Ok(prefix),
        _ => Err(TreeError::Corrupt("a pair is beyond the range of numbers")),
    }
}

/// The prefix of the children in a slot of an inner node at this depth.
fn prefix_of(prefix: u64, slot: usize, depth: u32) -> u64 {
    prefix | u64::try_from(slot).ok().and_then(|slot| slot.checked_shl(depth * BITS)).unwrap_or_default()
}
