//! The auth difference, and the conflicted state subgraph.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::{AuthGraph, Step};

/// How many events at first are looked at beyond one of which too little is known; then as many as are known.
const LOOK_AHEAD: usize = 64;

/// In which of the auth chains an event is, a bit for each.
type Mask = Box<[u64]>;

/// The events that a walk has reached and not yet passed.
struct Frontier {
    open: BTreeMap<u64, Mask>,
    full: Mask,
    /// How many of the open ones are not in all chains.
    apart: usize,
}

impl Frontier {
    fn new(sets: usize) -> Self {
        let mut full = vec![u64::MAX; sets.div_ceil(64).max(1)].into_boxed_slice();
        if let Some(last) = full.last_mut()
            && !sets.is_multiple_of(64)
        {
            *last = (1_u64 << (sets % 64)) - 1;
        }
        Self { open: BTreeMap::new(), full, apart: 0 }
    }

    fn mask_of(&self, set: usize) -> Mask {
        let mut mask = vec![0; self.full.len()].into_boxed_slice();
        if let Some(word) = mask.get_mut(set / 64) {
            *word = 1 << (set % 64);
        }
        mask
    }

    fn reach(&mut self, at: u64, mask: &Mask) {
        let known = self.open.entry(at).or_insert_with(|| {
            self.apart += 1;
            vec![0; self.full.len()].into_boxed_slice()
        });
        if *known == self.full {
            return;
        }
        for (word, more) in known.iter_mut().zip(mask.iter()) {
            *word |= more;
        }
        if *known == self.full {
            self.apart -= 1;
        }
    }

    /// The highest open event; None once all that are open are in all chains, and so is everything below them.
    fn pop(&mut self) -> Option<(u64, Mask)> {
        if self.apart == 0 {
            return None;
        }
        let (at, mask) = self.open.pop_last()?;
        if mask != self.full {
            self.apart -= 1;
        }
        Some((at, mask))
    }
}

impl AuthGraph {
    /// The events that are in the full auth chain of some of the states but not of all (rooms v2, "Auth difference").
    ///
    /// `sets` holds, for each state, its events of the conflicted pairs; what else is in the states is the same in
    /// all. A state's own events count as part of its chain: what is in every state is in no difference. The
    /// conflicted events themselves are left out of the answer.
    pub fn difference(&self, sets: &[Vec<u64>]) -> Step {
        let conflicted: HashSet<u64> = sets.iter().flatten().copied().collect();
        let mut in_all = BTreeSet::new();
        loop {
            let apart = match self.walk(sets, &conflicted, &in_all) {
                Ok(apart) => apart,
                Err(step) => return step,
            };
            // Where unconflicted state stands on what was found, that is in all chains after all.
            let standing = match self.standing_upon(&apart, &conflicted) {
                Ok(standing) => standing,
                Err(step) => return step,
            };
            if standing.is_subset(&in_all) {
                return Step::Done(apart.into_iter().collect());
            }
            in_all.extend(standing);
        }
    }

    /// The events on the paths between conflicted events, these included (rooms v12, "Conflicted state subgraph").
    pub fn subgraph(&self, conflicted: &[u64]) -> Step {
        let ends: BTreeSet<u64> = conflicted.iter().copied().collect();
        let Some(&lowest) = ends.first() else { return Step::Done(Vec::new()) };
        let mut open = ends.clone();
        let mut visited = Vec::new();
        let mut missing = Vec::new();
        while let Some(at) = open.pop_last() {
            match self.rows.get(&at) {
                // Nothing below the lowest end leads to an end.
                Some(row) => open.extend(row.auth.iter().filter(|&&cited| cited >= lowest)),
                None => missing.push(at),
            }
            visited.push(at);
        }
        if !missing.is_empty() {
            return Step::Rows(missing);
        }
        let mut leading: HashSet<u64> = HashSet::new();
        for at in visited.into_iter().rev() {
            let leads = |row: &crate::Row| row.auth.iter().any(|cited| leading.contains(cited));
            if ends.contains(&at) || self.rows.get(&at).is_some_and(leads) {
                leading.insert(at);
            }
        }
        let mut found: Vec<u64> = leading.into_iter().collect();
        found.sort_unstable();
        Step::Done(found)
    }

    /// Down from the conflicted events, to where everything is in all chains: what is in some only.
    fn walk(
        &self,
        sets: &[Vec<u64>],
        conflicted: &HashSet<u64>,
        in_all: &BTreeSet<u64>,
    ) -> Result<BTreeSet<u64>, Step> {
        let mut frontier = Frontier::new(sets.len());
        for (set, events) in sets.iter().enumerate() {
            let mask = frontier.mask_of(set);
            for &event in events {
                frontier.reach(event, &mask);
            }
        }
        let full = frontier.full.clone();
        for &event in in_all {
            frontier.reach(event, &full);
        }
        let (mut found, mut missing, mut unknown) = (BTreeSet::new(), Vec::new(), Vec::new());
        let mut ahead = LOOK_AHEAD.max(self.unconflicted.len() + self.rows.len());
        while ahead > 0
            && let Some((at, mut mask)) = frontier.pop()
        {
            if mask != full && !conflicted.contains(&at) {
                match self.unconflicted.get(&at) {
                    Some(true) => mask.clone_from(&full),
                    Some(false) => {}
                    None => unknown.push(at),
                }
            }
            match self.rows.get(&at) {
                Some(row) => row.auth.iter().for_each(|&cited| frontier.reach(cited, &mask)),
                // Below what is in all chains nothing needs to be known but that it is.
                None if mask == full => {}
                None => missing.push(at),
            }
            if mask != full && !conflicted.contains(&at) {
                found.insert(at);
            }
            if !(missing.is_empty() && unknown.is_empty()) {
                ahead -= 1;
            }
        }
        if !missing.is_empty() {
            return Err(Step::Rows(missing));
        }
        if !unknown.is_empty() {
            return Err(Step::Unknown(unknown));
        }
        Ok(found)
    }

    /// The events of the unconflicted state that have one of these in their auth chains.
    fn standing_upon(&self, cited: &BTreeSet<u64>, conflicted: &HashSet<u64>) -> Result<BTreeSet<u64>, Step> {
        let Some(&lowest) = cited.first() else { return Ok(BTreeSet::new()) };
        if self.complete_above.is_none_or(|above| above > lowest) {
            return Err(Step::Above(lowest));
        }
        let mut above: HashSet<u64> = cited.iter().copied().collect();
        let (mut standing, mut unknown) = (BTreeSet::new(), Vec::new());
        for (&at, row) in self.rows.range(lowest + 1..) {
            if !row.auth.iter().any(|event| above.contains(event)) {
                continue;
            }
            above.insert(at);
            if conflicted.contains(&at) || cited.contains(&at) {
                continue;
            }
            match self.unconflicted.get(&at) {
                Some(true) => {
                    standing.insert(at);
                }
                Some(false) => {}
                None => unknown.push(at),
            }
        }
        if unknown.is_empty() { Ok(standing) } else { Err(Step::Unknown(unknown)) }
    }
}
