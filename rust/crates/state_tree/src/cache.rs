//! Pages that were used of late, up to a number of bytes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{Page, PageId, Source};

/// Pages in two halves: what is used moves to the younger one, and when that is full the older one is dropped.
#[derive(Debug)]
pub struct Cache {
    halves: Mutex<Halves>,
    half: usize,
}

#[derive(Debug, Default)]
struct Halves {
    young: HashMap<PageId, Arc<Page>>,
    old: HashMap<PageId, Arc<Page>>,
    young_size: usize,
    old_size: usize,
}

impl Cache {
    /// A cache that takes about this number of bytes at most.
    pub fn new(budget: usize) -> Self {
        Self { halves: Mutex::default(), half: budget / 2 }
    }

    pub fn keep(&self, page: Arc<Page>) {
        self.put(&mut self.lock(), page);
    }

    /// How many bytes are in use.
    pub fn size(&self) -> usize {
        let halves = self.lock();
        halves.young_size + halves.old_size
    }

    fn put(&self, halves: &mut Halves, page: Arc<Page>) {
        let size = page.size();
        if size > self.half {
            return;
        }
        if halves.young_size + size > self.half {
            halves.old = std::mem::take(&mut halves.young);
            halves.old_size = std::mem::take(&mut halves.young_size);
        }
        if halves.young.insert(page.id(), page).is_none() {
            halves.young_size += size;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Halves> {
        // Whoever panicked: pages do not change, so what is there is right.
        self.halves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source for Cache {
    fn page(&self, id: PageId) -> Option<Arc<Page>> {
        let mut halves = self.lock();
        if let Some(page) = halves.young.get(&id) {
            return Some(page.clone());
        }
        let page = halves.old.remove(&id)?;
        halves.old_size -= page.size();
        self.put(&mut halves, page.clone());
        Some(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stays_and_the_rest_goes() {
        let cache = Cache::new(100_000);
        let page = |position| Arc::new(Page::parse(PageId::new(position, 0).unwrap(), &[0; 200]).unwrap());
        cache.keep(page(0));
        for position in 1..5_000 {
            cache.keep(page(position));
            assert!(cache.size() <= 100_000);
            assert!(cache.page(PageId::new(0, 0).unwrap()).is_some());
        }
        assert!(cache.page(PageId::new(1, 0).unwrap()).is_none());
        assert!(cache.page(PageId::new(4_999, 0).unwrap()).is_some());
    }
}
