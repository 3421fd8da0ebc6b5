//! Changes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::address::NODES;
use crate::{
    Address, BITS, Cache, Entry, LEAF, MASK, MAX_DEPTH, Node, Page, PageId, SLOTS, Source, TreeError,
    rest_of, slot_of,
};

/// Up to this size a page is added to, about; the databases keep what is no larger in one piece.
const PAGE_SIZE: usize = 1_800;

/// The changes of one transaction: the pages that it has read, and those that it writes.
///
/// The new pages are seen by the walks of this writer alone, until they are committed and kept in the cache.
#[derive(Debug)]
pub struct Writer {
    cache: Arc<Cache>,
    pages: Mutex<Pages>,
}

#[derive(Debug, Default)]
struct Pages {
    read: HashMap<PageId, Arc<Page>>,
    /// Written, and not handed out to be stored.
    open: HashMap<PageId, Arc<Page>>,
    stored: HashMap<PageId, Arc<Page>>,
    /// How many pages there are at a position.
    parts: HashMap<u64, u64>,
}

/// A part of a tree after a change.
enum Tree {
    Stored(Address),
    Leaf(Vec<Entry>),
    Inner([Option<Box<Tree>>; SLOTS]),
}

/// A change to an entry: the pair's number, and its new value, if it has one.
pub type Change = (u64, Option<i64>);

impl Writer {
    pub fn new(cache: Arc<Cache>) -> Self {
        Self { cache, pages: Mutex::default() }
    }

    /// Hold a page that was read in the transaction.
    pub fn give(&self, page: Arc<Page>) {
        self.lock().read.insert(page.id(), page);
    }

    /// The state with these changes, written under the position, which the transaction must have been given.
    ///
    /// Raises `Missing` unless all the pairs were looked up in the state through this writer before. A state that
    /// the changes leave as it is stays the same one.
    pub fn change(
        &self,
        root: Option<Address>,
        changes: &[Change],
        position: u64,
    ) -> Result<Address, TreeError> {
        let mut by_pair: Vec<Change> = changes.to_vec();
        by_pair.sort_by_key(|(pair, _)| *pair);
        // Of several changes to a pair the last one counts.
        by_pair.reverse();
        by_pair.dedup_by_key(|(pair, _)| *pair);
        by_pair.reverse();
        let tree = match self.changed(root, 0, &by_pair)? {
            Some(Tree::Stored(address)) => return Ok(address),
            Some(tree) => tree,
            None => Tree::Leaf(Vec::new()),
        };
        self.lock().place(tree, root, position)
    }

    /// The pages to be stored; whatever is changed later goes into others.
    pub fn take(&self) -> Vec<Arc<Page>> {
        let mut pages = self.lock();
        let mut taken: Vec<Arc<Page>> = std::mem::take(&mut pages.open).into_values().collect();
        taken.sort_by_key(|page| page.id());
        for page in &mut taken {
            Arc::make_mut(page).shrink();
            pages.stored.insert(page.id(), page.clone());
        }
        taken
    }

    /// The transaction is committed: others may see what it has stored.
    pub fn keep(&self) {
        for page in std::mem::take(&mut self.lock().stored).into_values() {
            self.cache.keep(page);
        }
    }

    fn node(&self, address: Address, depth: u32) -> Result<Node, TreeError> {
        let page = self.page(address.page()).ok_or(TreeError::Missing(address.page()))?;
        page.node(address.index(), depth)
    }

    /// The subtree after the changes, or None if nothing is left of it.
    fn changed(
        &self,
        address: Option<Address>,
        depth: u32,
        changes: &[Change],
    ) -> Result<Option<Tree>, TreeError> {
        let node = match address {
            None => Node::Leaf(Vec::new()),
            Some(address) if changes.is_empty() => return Ok(Some(Tree::Stored(address))),
            Some(address) => self.node(address, depth)?,
        };
        match node {
            Node::Leaf(entries) => {
                let merged = merged(&entries, depth, changes);
                Ok(match address {
                    Some(address) if merged == entries => Some(Tree::Stored(address)),
                    _ if merged.is_empty() => None,
                    _ => Some(grown(merged)),
                })
            }
            Node::Inner(_) if depth >= MAX_DEPTH => Err(TreeError::Corrupt("a tree is too deep")),
            Node::Inner(children) => {
                let mut parts: [Vec<Change>; SLOTS] = std::array::from_fn(|_| Vec::new());
                for change in changes {
                    if let Some(part) = parts.get_mut(slot_of(change.0, depth)) {
                        part.push(*change);
                    }
                }
                let mut trees = std::array::from_fn(|_| None);
                let mut is_same = true;
                for ((child, part), tree) in children.iter().zip(&parts).zip(&mut trees) {
                    if child.is_some() || !part.is_empty() {
                        *tree = self.changed(*child, depth + 1, part)?.map(Box::new);
                        is_same &= match tree.as_deref() {
                            Some(Tree::Stored(address)) => Some(*address) == *child,
                            Some(_) => false,
                            None => child.is_none(),
                        };
                    }
                }
                Ok(match address {
                    Some(address) if is_same => Some(Tree::Stored(address)),
                    _ if trees.iter().all(Option::is_none) => None,
                    _ => Some(Tree::Inner(trees)),
                })
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source for Writer {
    fn page(&self, id: PageId) -> Option<Arc<Page>> {
        let mut pages = self.lock();
        let own = pages.open.get(&id).or_else(|| pages.stored.get(&id)).or_else(|| pages.read.get(&id));
        if let Some(page) = own {
            return Some(page.clone());
        }
        // Held from here on: the change that follows a look-up finds what that has found.
        let page = self.cache.page(id)?;
        pages.read.insert(id, page.clone());
        Some(page)
    }
}

impl Pages {
    /// Write the new nodes of a tree: into the page of the state that it was made of, if that is open and has room.
    fn place(&mut self, tree: Tree, from: Option<Address>, position: u64) -> Result<Address, TreeError> {
        let mut nodes = Vec::new();
        flatten(tree, 0, &mut nodes);
        let size: usize = nodes.iter().map(Flat::size).sum();
        let has_room =
            |page: &&Arc<Page>| page.len() + nodes.len() <= NODES && page.body().len() + size <= PAGE_SIZE;
        let open = from.and_then(|from| self.open.get(&from.page())).filter(has_room).map(|page| page.id());
        let (mut pages, places) = if let Some(page) = open.and_then(|id| self.open.remove(&id)) {
            let places = (page.len()..).take(nodes.len()).map(|index| (0, index)).collect();
            (vec![page], places)
        } else {
            let position = from.map_or(0, |from| from.page().position()).max(position);
            let places = laid_out(&nodes);
            let count = places.last().map_or(0, |(page, _)| page + 1);
            let pages: Result<Vec<_>, _> = (0..count).map(|_| self.begin(position)).collect();
            // What is below has the lower number.
            (pages?.into_iter().rev().collect(), places)
        };
        let mut addresses = Vec::with_capacity(nodes.len());
        for (page, index) in &places {
            let page = pages.get(*page).ok_or(TreeError::TooLarge)?;
            addresses.push(page.id().node(u8::try_from(*index).map_err(|_| TreeError::TooLarge)?));
        }
        for (node, (page, _)) in nodes.into_iter().zip(&places) {
            let depth = node.depth;
            let node = node.finish(&addresses)?;
            Arc::make_mut(pages.get_mut(*page).ok_or(TreeError::TooLarge)?).add(&node, depth)?;
        }
        self.open.extend(pages.into_iter().map(|page| (page.id(), page)));
        addresses.first().copied().ok_or(TreeError::TooLarge)
    }

    fn begin(&mut self, position: u64) -> Result<Arc<Page>, TreeError> {
        let part = self.parts.entry(position).or_default();
        *part += 1;
        Ok(Arc::new(Page::new(PageId::new(position, *part - 1)?)))
    }
}

/// In which of how many new pages the nodes go, and there at which index.
fn laid_out(nodes: &[Flat]) -> Vec<(usize, usize)> {
    let (mut page, mut index, mut size) = (0, 0, 0);
    let place = |node: &Flat| {
        if index == NODES || (index > 0 && size + node.size() > PAGE_SIZE) {
            (page, index, size) = (page + 1, 0, 0);
        }
        index += 1;
        size += node.size();
        (page, index - 1)
    };
    nodes.iter().map(place).collect()
}

/// A node on its way into a page. Children that are new are numbers of the list that it is in.
struct Flat {
    depth: u32,
    form: Form,
}

enum Form {
    Leaf(Vec<Entry>),
    Inner([Child; SLOTS]),
}

#[derive(Clone, Copy)]
enum Child {
    Nothing,
    Stored(Address),
    New(usize),
}

impl Flat {
    /// How many bytes it takes, about.
    fn size(&self) -> usize {
        match &self.form {
            Form::Leaf(entries) => 3 + 5 * entries.len(),
            Form::Inner(children) => {
                1 + 4 * children.iter().filter(|child| !matches!(child, Child::Nothing)).count()
            }
        }
    }

    fn finish(self, addresses: &[Address]) -> Result<Node, TreeError> {
        let children = match self.form {
            Form::Leaf(entries) => return Ok(Node::Leaf(entries)),
            Form::Inner(children) => children,
        };
        let mut finished = [None; SLOTS];
        for (child, finished) in children.into_iter().zip(&mut finished) {
            *finished = match child {
                Child::Nothing => None,
                Child::Stored(address) => Some(address),
                Child::New(number) => Some(*addresses.get(number).ok_or(TreeError::TooLarge)?),
            };
        }
        Ok(Node::Inner(finished))
    }
}

/// Put the new nodes of a tree into a list, each before what is below it, and say what its parent calls it.
fn flatten(tree: Tree, depth: u32, nodes: &mut Vec<Flat>) -> Child {
    let number = nodes.len();
    match tree {
        Tree::Stored(address) => return Child::Stored(address),
        Tree::Leaf(entries) => nodes.push(Flat { depth, form: Form::Leaf(entries) }),
        Tree::Inner(trees) => {
            nodes.push(Flat { depth, form: Form::Inner([Child::Nothing; SLOTS]) });
            let below =
                trees.map(|tree| tree.map_or(Child::Nothing, |tree| flatten(*tree, depth + 1, nodes)));
            if let Some(node) = nodes.get_mut(number) {
                node.form = Form::Inner(below);
            }
        }
    }
    Child::New(number)
}

/// The entries of a leaf after the changes, which are in order of the pairs.
fn merged(entries: &[Entry], depth: u32, changes: &[Change]) -> Vec<Entry> {
    let mut merged: Vec<Entry> = entries.to_vec();
    for (pair, value) in changes {
        let rest = rest_of(*pair, depth);
        match (merged.binary_search_by_key(&rest, |(rest, _)| *rest), value) {
            (Ok(index), Some(value)) => {
                if let Some(entry) = merged.get_mut(index) {
                    entry.1 = *value;
                }
            }
            (Ok(index), None) => {
                merged.remove(index);
            }
            (Err(index), Some(value)) => merged.insert(index, (rest, *value)),
            (Err(_), None) => {}
        }
    }
    merged
}

/// A leaf of these entries, or what it splits into if they are too many.
fn grown(entries: Vec<Entry>) -> Tree {
    if entries.len() <= LEAF {
        return Tree::Leaf(entries);
    }
    let mut parts: [Vec<Entry>; SLOTS] = std::array::from_fn(|_| Vec::new());
    for (rest, value) in entries {
        if let Some(part) = parts.get_mut(usize::try_from(rest & MASK).unwrap_or_default()) {
            part.push((rest >> BITS, value));
        }
    }
    Tree::Inner(parts.map(|part| (!part.is_empty()).then(|| Box::new(grown(part)))))
}
