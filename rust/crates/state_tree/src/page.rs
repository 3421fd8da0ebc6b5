//! The stored form of nodes: numbers of variable length, relative to the position of their own page.
//!
//! A node begins with its header, two bits for each slot of an inner node: no child; the next node of this page; a
//! node of the first page at an older position, whose index is its depth, as it is where the page is one path; any
//! other node. A header of zeros is that of a leaf. What follows in an inner node is for each child of the third kind
//! the distance to its position, for each of the fourth the same and the rest of its address.
//!
//! In a leaf follow the entries' pairs, without the bits that the nodes above tell: as a set of bits where they are
//! small, otherwise their number and the distances between them. Then the distances to their events' positions.

use crate::{Address, BITS, Entry, LEAF, PageId, SLOTS, TreeError};

const SLOT_BITS: u32 = 2 << BITS;
const HEADER: usize = SLOT_BITS.div_ceil(8) as usize;
const LARGEST: usize = u16::MAX as usize;
const NEXT: u32 = 1;
const OLDER: u32 = 2;
const ANY: u32 = 3;
/// A page that was written with another size of leaf can be read.
const LARGEST_LEAF: usize = if LEAF > 64 { LEAF } else { 64 };
/// Pairs of a leaf up to this number may be a set of bits.
const BITS_IN_SET: u64 = 62;

/// A node: of a leaf the entries in order, their pairs without the bits that are told by the nodes above.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    Leaf(Vec<Entry>),
    Inner([Option<Address>; SLOTS]),
}

/// Nodes in their stored form.
#[derive(Debug, Clone)]
pub struct Page {
    id: PageId,
    body: Vec<u8>,
    starts: Vec<u16>,
}

impl Page {
    pub(crate) fn new(id: PageId) -> Self {
        Self { id, body: Vec::new(), starts: Vec::new() }
    }

    /// Raises unless every node can be read.
    pub fn parse(id: PageId, body: &[u8]) -> Result<Self, TreeError> {
        if body.is_empty() || body.len() > LARGEST {
            return Err(TreeError::Corrupt("its size is not that of a page"));
        }
        let mut starts = Vec::with_capacity(8);
        let mut reader = Reader { rest: body };
        while !reader.rest.is_empty() {
            let index =
                u8::try_from(starts.len()).map_err(|_| TreeError::Corrupt("there are too many nodes"))?;
            starts.push(start(body.len() - reader.rest.len())?);
            read(&mut reader, id.node(index), 0)?;
        }
        Ok(Self { id, body: body.into(), starts })
    }

    pub fn id(&self) -> PageId {
        self.id
    }

    pub fn body(&self) -> &[u8] {
        &self.body
    }

    pub fn len(&self) -> usize {
        self.starts.len()
    }

    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// What it takes in memory, about.
    pub fn size(&self) -> usize {
        self.body.capacity() + 2 * self.starts.capacity() + 160
    }

    /// The node with this index, which is at this depth of its tree.
    pub(crate) fn node(&self, index: u8, depth: u32) -> Result<Node, TreeError> {
        let start = self.starts.get(usize::from(index)).ok_or(TreeError::Corrupt("there is no such node"))?;
        let rest = self.body.get(usize::from(*start)..).unwrap_or_default();
        read(&mut Reader { rest }, self.id.node(index), depth)
    }

    /// Add a node at the end.
    pub(crate) fn add(&mut self, node: &Node, depth: u32) -> Result<(), TreeError> {
        let index = u8::try_from(self.starts.len()).map_err(|_| TreeError::TooLarge)?;
        self.starts.push(start(self.body.len())?);
        match node {
            Node::Leaf(entries) => write_leaf(&mut self.body, entries, self.id),
            Node::Inner(children) => write_inner(&mut self.body, children, self.id.node(index), depth),
        }
        Ok(())
    }

    pub(crate) fn shrink(&mut self) {
        self.body.shrink_to_fit();
        self.starts.shrink_to_fit();
    }
}

fn start(offset: usize) -> Result<u16, TreeError> {
    u16::try_from(offset).map_err(|_| TreeError::TooLarge)
}

fn write_inner(out: &mut Vec<u8>, children: &[Option<Address>; SLOTS], own: Address, depth: u32) {
    let mut header: u32 = 0;
    let mut rest = Vec::with_capacity(2 * SLOTS);
    for (slot, child) in (0_u32..).zip(children) {
        let Some(child) = *child else { continue };
        let position = child.page().position();
        let distance = own.page().position().wrapping_sub(position);
        let kind = if Some(child) == next(own) {
            NEXT
        } else if distance != 0 && child.within() == u64::from(depth + 1) {
            write_number(&mut rest, distance);
            OLDER
        } else {
            write_number(&mut rest, distance);
            write_number(&mut rest, child.within());
            ANY
        };
        header |= kind << (2 * slot);
    }
    out.extend(header.to_le_bytes().iter().take(HEADER));
    out.extend(rest);
}

fn write_leaf(out: &mut Vec<u8>, entries: &[Entry], page: PageId) {
    out.extend([0; HEADER]);
    let set_size = |largest: u64| usize::try_from((largest + 2).div_ceil(7)).unwrap_or(usize::MAX);
    let is_set = entries
        .last()
        .is_some_and(|(largest, _)| *largest < BITS_IN_SET && set_size(*largest) <= entries.len() + 1);
    if is_set {
        let set = entries.iter().fold(0_u64, |set, (pair, _)| set | 1 << pair);
        write_number(out, set << 1 | 1);
    } else {
        write_number(out, u64::try_from(entries.len()).unwrap_or_default() << 1);
        let mut above = 0;
        for (pair, _) in entries {
            write_number(out, pair.wrapping_sub(above));
            above = pair.wrapping_add(1);
        }
    }
    for (_, value) in entries {
        write_number(out, folded(page.position().cast_signed().wrapping_sub(*value)));
    }
}

fn read(reader: &mut Reader<'_>, own: Address, depth: u32) -> Result<Node, TreeError> {
    let mut header = [0; 4];
    for byte in header.iter_mut().take(HEADER) {
        *byte = reader.byte()?;
    }
    match u32::from_le_bytes(header) {
        0 => Ok(Node::Leaf(read_leaf(reader, own.page())?)),
        header => Ok(Node::Inner(read_inner(reader, header, own, depth)?)),
    }
}

fn read_inner(
    reader: &mut Reader<'_>,
    header: u32,
    own: Address,
    depth: u32,
) -> Result<[Option<Address>; SLOTS], TreeError> {
    let mut children = [None; SLOTS];
    for (slot, child) in (0_u32..).zip(&mut children) {
        let kind = header >> (2 * slot) & 3;
        *child = match kind {
            NEXT => Some(next(own).ok_or(TreeError::Corrupt("there is no next node"))?),
            OLDER | ANY => {
                let position = own.page().position().checked_sub(reader.number()?);
                let position = position.ok_or(TreeError::Corrupt("a page is before the first"))?;
                let within = if kind == OLDER { u64::from(depth + 1) } else { reader.number()? };
                let child = Address::at(position, within)
                    .map_err(|_| TreeError::Corrupt("there is no such address"))?;
                if child.page() > own.page() || child == own {
                    return Err(TreeError::Corrupt("a node is below itself"));
                }
                Some(child)
            }
            _ => None,
        };
    }
    if header.checked_shr(SLOT_BITS).is_some_and(|rest| rest != 0) {
        return Err(TreeError::Corrupt("there are too many children"));
    }
    Ok(children)
}

fn read_leaf(reader: &mut Reader<'_>, page: PageId) -> Result<Vec<Entry>, TreeError> {
    let form = reader.number()?;
    let mut entries: Vec<Entry> = Vec::new();
    if form & 1 == 1 {
        let mut set = form >> 1;
        entries.reserve_exact(usize::try_from(set.count_ones()).unwrap_or_default());
        while set != 0 {
            entries.push((u64::from(set.trailing_zeros()), 0));
            set &= set - 1;
        }
    } else {
        // Each entry takes two bytes at least.
        let count = usize::try_from(form >> 1).ok().filter(|count| *count <= reader.rest.len() / 2);
        let count = count.ok_or(TreeError::Corrupt("there are fewer entries than it says"))?;
        entries.reserve_exact(count);
        let mut above = Some(0_u64);
        for _ in 0..count {
            let pair = above.and_then(|above| above.checked_add(reader.number().ok()?));
            let pair = pair.ok_or(TreeError::Corrupt("a pair is beyond the range of numbers"))?;
            entries.push((pair, 0));
            above = pair.checked_add(1);
        }
    }
    if entries.len() > LARGEST_LEAF {
        return Err(TreeError::Corrupt("a leaf has too many entries"));
    }
    for (_, value) in &mut entries {
        *value = page.position().cast_signed().wrapping_sub(unfolded(reader.number()?));
    }
    Ok(entries)
}

/// The node after this one in its page, if there can be one.
fn next(own: Address) -> Option<Address> {
    own.index().checked_add(1).map(|index| own.page().node(index))
}

/// Small numbers of either sign as small ones without.
fn folded(number: i64) -> u64 {
    (number << 1 ^ number >> 63).cast_unsigned()
}

fn unfolded(number: u64) -> i64 {
    (number >> 1).cast_signed() ^ -(number & 1).cast_signed()
}

fn write_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    out.push(number.to_le_bytes()[0]);
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    fn byte(&mut self) -> Result<u8, TreeError> {
        let (first, rest) = self.rest.split_first().ok_or(TreeError::Corrupt("it ends too early"))?;
        self.rest = rest;
        Ok(*first)
    }

    fn number(&mut self) -> Result<u64, TreeError> {
        let mut number = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.byte()?;
            let part = u64::from(byte & 0x7f);
            if part << shift >> shift != part {
                break;
            }
            number |= part << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(TreeError::Corrupt("a number is too large"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_written() {
        for number in [0, 1, 127, 128, 300, 1 << 35, u64::MAX - 1, u64::MAX] {
            let mut out = Vec::new();
            write_number(&mut out, number);
            assert_eq!(Reader { rest: &out }.number(), Ok(number));
            assert_eq!(folded(unfolded(number)), number);
        }
        assert!(Reader { rest: &[0xff; 10] }.number().is_err());
    }

    #[test]
    fn nodes_read_as_written() {
        let id = PageId::new(1000, 3).unwrap();
        let older = PageId::new(7, 0).unwrap();
        let mut inner = [None; SLOTS];
        inner[0] = Some(id.node(1));
        inner[1] = Some(older.node(4));
        inner[SLOTS - 1] = Some(older.node(9));
        let nodes = [
            Node::Inner(inner),
            Node::Leaf(vec![]),
            Node::Leaf(vec![(0, 1000), (3, 4), (61, -5)]),
            Node::Leaf(vec![(0, 1), (1, 2), (2, 3), (3, i64::MAX), (u64::MAX, i64::MIN)]),
        ];
        let mut page = Page::new(id);
        for node in &nodes {
            page.add(node, 3).unwrap();
        }
        let page = Page::parse(id, page.body()).unwrap();
        for (index, node) in (0..).zip(&nodes) {
            assert_eq!(page.node(index, 3).as_ref(), Ok(node));
        }
        assert!(page.node(4, 3).is_err());
    }
}
