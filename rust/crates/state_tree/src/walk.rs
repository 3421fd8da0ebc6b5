//! Walks through trees whose pages are elsewhere.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::{Address, Node, Page, PageId, TreeError};

/// Where pages may be at hand.
pub trait Source {
    fn page(&self, id: PageId) -> Option<Arc<Page>>;
}

/// Something to find out, which goes as far as the pages at hand allow and then says which others it needs.
pub trait Walk {
    /// Go on; the pages that are needed before there is more to do, in order. None are needed when it is done.
    fn advance(&mut self, source: &dyn Source) -> Result<Vec<PageId>, TreeError>;

    /// Hand over a page that was needed.
    fn give(&mut self, page: Arc<Page>);
}

/// The pages that a walk has seen, and those that it needs.
#[derive(Debug, Default)]
pub(crate) struct Held {
    pages: HashMap<PageId, Arc<Page>>,
    wanted: BTreeSet<PageId>,
}

impl Held {
    /// The node at the address and this depth, or None if its page must be loaded.
    pub(crate) fn node(
        &mut self,
        address: Address,
        depth: u32,
        source: &dyn Source,
    ) -> Result<Option<Node>, TreeError> {
        let id = address.page();
        if let Some(page) = self.pages.get(&id) {
            return page.node(address.index(), depth).map(Some);
        }
        let Some(page) = source.page(id) else {
            self.wanted.insert(id);
            return Ok(None);
        };
        let node = page.node(address.index(), depth)?;
        self.pages.insert(id, page);
        Ok(Some(node))
    }

    pub(crate) fn give(&mut self, page: Arc<Page>) {
        self.pages.insert(page.id(), page);
    }

    /// What is needed, in order.
    pub(crate) fn take_wanted(&mut self) -> Vec<PageId> {
        std::mem::take(&mut self.wanted).into_iter().collect()
    }
}
