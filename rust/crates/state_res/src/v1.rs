//! State resolution of room version 1.

#![allow(
    clippy::indexing_slicing,
    reason = "numbers come from the table, and its lists are as long as its numbers go"
)]

use std::cmp::Reverse;

use event_auth::{AuthContext, AuthError, check_state_auth};
use sha1::{Digest, Sha1};

use crate::table::{CREATE, Index, NONE, POWER_LEVELS, Table};
use crate::{Conflict, Resolution};

pub fn resolve<'a>(conflict: Conflict<'_, 'a>) -> Resolution<'a> {
    let table = Table::new(&conflict);
    // "Start by setting R to the union of the states to be resolved, excluding any conflicting events."
    let mut passes =
        Passes { table: &table, state: table.unconflicted.clone(), resolution: Resolution::default() };

    let mut by_pass: [Vec<Vec<Index>>; 4] = Default::default();
    for candidates in by_pair(&table) {
        let pair = table.pair[candidates[0] as usize];
        let pass = match table.pairs.list[pair as usize].0 {
            _ if pair == POWER_LEVELS => 0,
            "m.room.join_rules" => 1,
            "m.room.member" => 2,
            _ => 3,
        };
        by_pass[pass].push(candidates);
    }
    let [power_levels, join_rules, members, others] = by_pass;
    // "First we resolve conflicts between m.room.power_levels events."
    passes.climb(power_levels);
    // "Repeat the above process for conflicts between m.room.join_rules events."
    passes.climb(join_rules);
    // "Repeat the above process for conflicts between m.room.member events."
    passes.climb(members);
    // "No other events affect the authorisation rules, so for all other conflicts, just pick [...]".
    passes.pick(others);

    let Passes { state, mut resolution, .. } = passes;
    resolution.decisions = table.decisions(&state);
    resolution
}

/// The events of each pair, sorted "by ascending depth then descending `sha1(event_id)`".
fn by_pair(table: &Table<'_>) -> Vec<Vec<Index>> {
    let mut groups: Vec<Vec<Index>> = vec![Vec::new(); table.pairs.list.len()];
    for event in table.conflicted() {
        groups[table.pair[event as usize] as usize].push(event);
    }
    groups.retain(|group| !group.is_empty());
    for group in &mut groups {
        group.sort_by_cached_key(|event| {
            let event = table.events[*event as usize];
            let hash: [u8; 20] = Sha1::digest(event.event_id()).into();
            (event.depth(), Reverse(hash))
        });
    }
    groups
}

struct Passes<'t, 'a> {
    table: &'t Table<'a>,
    /// R.
    state: Vec<Index>,
    resolution: Resolution<'a>,
}

impl Passes<'_, '_> {
    /// The first three passes: each of the events of a pair must be allowed by the one before it.
    ///
    /// What one pair of a pass comes to is not seen by the others of that pass, so that their order does not matter.
    fn climb(&mut self, pairs: Vec<Vec<Index>>) {
        let mut decided = Vec::with_capacity(pairs.len());
        for candidates in pairs {
            let mut candidates = candidates.into_iter();
            // "Add the first event in the list to R."
            let Some(mut winner) = candidates.next() else {
                continue;
            };
            let pair = self.table.pair[winner as usize];
            self.applied(winner);
            // "For each subsequent event in the list, check that the event would be allowed by the authorisation
            // rules for a room in state R. If the event would be allowed, then update R with the event and continue
            // with the next event in the list. If it would not be allowed, stop [...]".
            while let Some(candidate) = candidates.next() {
                match self.check(candidate, pair, winner) {
                    Ok(()) => {
                        self.applied(candidate);
                        winner = candidate;
                    }
                    Err(reason) => {
                        let stopped_at = self.table.events[candidate as usize].event_id();
                        self.lost(candidate, reason.0);
                        for later in candidates.by_ref() {
                            self.lost(later, format!("comes after {stopped_at}, which is not allowed"));
                        }
                    }
                }
            }
            decided.push((pair, winner));
        }
        for (pair, winner) in decided {
            self.state[pair as usize] = winner;
        }
    }

    /// The last pass: "[...] the event with the highest depth and lowest `sha1(event_id)` that passes authentication
    /// in R".
    ///
    /// What happens if none does is not said. The servers of the network keep the last one that they tried then.
    fn pick(&mut self, pairs: Vec<Vec<Index>>) {
        for candidates in pairs {
            let mut candidates = candidates.into_iter().rev().peekable();
            while let Some(candidate) = candidates.next() {
                match self.check(candidate, NONE, NONE) {
                    Err(reason) if candidates.peek().is_some() => self.lost(candidate, reason.0),
                    _ => {
                        self.applied(candidate);
                        self.state[self.table.pair[candidate as usize] as usize] = candidate;
                        break;
                    }
                }
            }
        }
    }

    /// Whether an event is allowed in R with `winner` for `pair`.
    fn check(&self, event: Index, pair: Index, winner: Index) -> Result<(), AuthError> {
        let table = self.table;
        let find = |kind: &str, state_key: &str| {
            let wanted = table.pairs.find(kind, state_key);
            let found = match wanted {
                NONE => NONE,
                CREATE => return Some(table.create),
                _ if wanted == pair => winner,
                _ => self.state[wanted as usize],
            };
            (found != NONE).then(|| table.events[found as usize])
        };
        let context = AuthContext { create: Some(table.create), rejected: None };
        check_state_auth(table.events[event as usize], &find, context)
    }

    fn applied(&mut self, event: Index) {
        self.resolution.applied.push(self.table.events[event as usize].event_id());
    }

    fn lost(&mut self, event: Index, reason: String) {
        self.resolution.lost.push((self.table.events[event as usize].event_id(), reason));
    }
}
