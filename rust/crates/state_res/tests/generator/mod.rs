//! Rooms that grow at random: what one sees on the network, and what nobody should do.
//!
//! The same seed gives the same room everywhere. All events in it were allowed by their own auth events and by the
//! state before them, as the events of a server are.
#![allow(dead_code, reason = "each program that has it uses some of it")]

use std::collections::HashMap;
use std::rc::Rc;

use canonical::{Event, EventIdFormat, RoomVersion, parse_object};
use event_auth::{AuthContext, auth_event_keys, check_state_auth};
use serde_json::{Value as Json, json};
use state_res::graph::{Entry, resolve_states};

/// Small, and the same everywhere: xorshift.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        let mut random = Self((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        // Near seeds begin alike.
        for _ in 0..8 {
            random.below(2);
        }
        random
    }

    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from((self.0 >> 16) % limit as u64).unwrap()
    }

    pub fn one_in(&mut self, limit: usize) -> bool {
        self.below(limit) == 0
    }

    pub fn pick<T: Clone>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())].clone()
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

/// The number of the event of each pair of type and state key.
pub type State = HashMap<(String, String), usize>;

/// A room with all that ever happened in it, and sets of its states that some server would have to resolve.
pub struct Room {
    pub seed: u64,
    pub version: &'static RoomVersion,
    pub events: Vec<Rc<Event>>,
    pub rejected: Vec<String>,
    pub merges: Vec<Vec<State>>,
}

impl Room {
    pub fn create(&self) -> &Event {
        &self.events[0]
    }

    pub fn entries<'a>(&'a self, state: &'a State) -> Vec<Entry<'a>> {
        let entry = |((kind, state_key), event): (&'a (String, String), &usize)| Entry {
            kind,
            state_key,
            event_id: self.events[*event].event_id(),
        };
        let mut entries: Vec<_> = state.iter().map(entry).collect();
        entries.sort();
        entries
    }

    pub fn to_json(&self) -> Json {
        let event = |event: &Rc<Event>| -> Json { serde_json::from_slice(event.pdu()).unwrap() };
        let state = |state: &State| -> Json {
            self.entries(state)
                .into_iter()
                .map(|entry| json!([entry.kind, entry.state_key, entry.event_id]))
                .collect()
        };
        let merge = |states: &Vec<State>| -> Json { states.iter().map(state).collect() };
        json!({
            "seed": self.seed,
            "version": self.version.identifier,
            "events": self.events.iter().map(event).collect::<Vec<_>>(),
            "rejected": self.rejected,
            "merges": self.merges.iter().map(merge).collect::<Vec<_>>(),
        })
    }
}

const USERS: [&str; 8] =
    ["@a:one", "@b:one", "@c:two", "@d:two", "@e:three:8448", "@f:three:8448", "@g:one", "@h:two"];
const LEVELS: [i64; 11] = [-1, 0, 0, 25, 49, 50, 50, 75, 99, 100, 100];
const RULES: [&str; 8] =
    ["public", "public", "invite", "knock", "restricted", "restricted", "knock_restricted", "private"];

/// What people do, and how much of it in rooms of different moods.
#[derive(Clone, Copy)]
enum Deed {
    Join,
    Leave,
    Invite,
    Knock,
    Kick,
    Ban,
    Power,
    Rules,
    Name,
    Tombstone,
    Other,
}

const MOODS: [&[(Deed, usize)]; 6] = [
    &[
        (Deed::Join, 5),
        (Deed::Leave, 2),
        (Deed::Invite, 2),
        (Deed::Knock, 1),
        (Deed::Kick, 2),
        (Deed::Ban, 2),
        (Deed::Power, 3),
        (Deed::Rules, 2),
        (Deed::Name, 3),
        (Deed::Tombstone, 1),
        (Deed::Other, 2),
    ],
    // A flood of joins.
    &[(Deed::Join, 12), (Deed::Leave, 2), (Deed::Rules, 1), (Deed::Ban, 1)],
    // A struggle for power.
    &[(Deed::Power, 10), (Deed::Join, 2), (Deed::Kick, 1), (Deed::Ban, 1), (Deed::Name, 1)],
    // Bans against joins.
    &[(Deed::Ban, 5), (Deed::Kick, 5), (Deed::Join, 6), (Deed::Power, 2), (Deed::Name, 2)],
    // A room that is not open to all.
    &[
        (Deed::Rules, 4),
        (Deed::Join, 6),
        (Deed::Knock, 4),
        (Deed::Invite, 4),
        (Deed::Power, 1),
        (Deed::Leave, 2),
    ],
    // Names and topics, and the end of the room.
    &[(Deed::Name, 8), (Deed::Tombstone, 3), (Deed::Other, 3), (Deed::Power, 2), (Deed::Join, 1)],
];

struct Draft {
    kind: &'static str,
    sender: &'static str,
    state_key: String,
    content: Json,
}

/// A point in the graph.
#[derive(Clone)]
struct Tip {
    state: Rc<State>,
    last: Vec<usize>,
}

pub struct Maker {
    random: Random,
    room: Room,
    room_id: String,
    mood: usize,
    clock: i64,
    users: Vec<&'static str>,
}

/// A small room with several merges, some of them of merged states.
pub fn small_room(seed: u64, version: &'static RoomVersion) -> Room {
    let mut maker = Maker::new(seed, version);
    let mut tips = vec![maker.begin()];
    let steps = 8 + maker.random.below(28);
    for _ in 0..steps {
        let chosen = maker.random.below(tips.len());
        match maker.random.below(12) {
            0 | 1 if tips.len() > 1 => {
                let count = (2 + maker.random.below(4)).min(tips.len());
                maker.random.shuffle(&mut tips);
                let merged = maker.merge(&tips[..count]);
                if maker.random.one_in(3) {
                    tips.push(merged);
                } else {
                    tips.splice(..count, [merged]);
                }
            }
            2 | 3 => tips.push(tips[chosen].clone()),
            _ => {
                let next = maker.attempt(&tips[chosen]);
                if maker.random.one_in(5) { tips.push(next) } else { tips[chosen] = next }
            }
        }
    }
    // Whatever is still open is merged at the end.
    while tips.len() > 1 {
        let count = (2 + maker.random.below(4)).min(tips.len());
        let merged = maker.merge(&tips[..count]);
        tips.splice(..count, [merged]);
    }
    maker.room
}

/// A room in which two states have about `size` conflicted events. The last of its merges is the one.
pub fn large_room(seed: u64, version: &'static RoomVersion, size: usize) -> Room {
    let mut maker = Maker::new(seed, version);
    // Everybody else who is named here does nothing but be a member.
    let crowd: Vec<&'static str> =
        (0..size / 2).map(|number| &*format!("@user{number}:crowd{}", number % 7).leak()).collect();
    maker.mood = 0;
    let mut base = maker.begin_open();
    for user in &crowd {
        maker.add(&mut base, &Draft::member(user, user, json!({"membership": "join"})));
    }
    let mut sides = Vec::new();
    for side in 0..2 {
        let mut tip = base.clone();
        let mut done = 0;
        while done * 2 < size * 9 / 10 {
            let user = maker.random.pick(&crowd);
            let draft = match maker.random.below(20) {
                // The larger part is people who come back under another name, or leave.
                0..13 => {
                    let content = json!({"membership": "join", "displayname": format!("{side}.{done}")});
                    Draft::member(user, user, content)
                }
                13 | 14 => Draft::member(user, user, json!({"membership": "leave"})),
                15 => Draft::member("@b:one", user, json!({"membership": "ban"})),
                16 => Draft::member("@c:two", user, json!({"membership": "leave"})),
                17 if done % 4 == 0 => maker.power(&tip.state, "@a:one"),
                _ => {
                    let sender = maker.random.pick(&["@b:one", "@c:two"]);
                    maker.name(sender)
                }
            };
            if maker.add(&mut tip, &draft) {
                done += 1;
            }
        }
        sides.push(tip);
    }
    let states = sides.iter().map(|tip| State::clone(&tip.state)).collect();
    maker.room.merges = vec![states];
    maker.room
}

impl Draft {
    fn member(sender: &'static str, target: &str, content: Json) -> Self {
        Self { kind: "m.room.member", sender, state_key: target.to_owned(), content }
    }

    fn of_room(kind: &'static str, sender: &'static str, content: Json) -> Self {
        Self { kind, sender, state_key: String::new(), content }
    }
}

impl Maker {
    fn new(seed: u64, version: &'static RoomVersion) -> Self {
        // Versions with the same rules would have the same rooms.
        let identifier = version.identifier.bytes().fold(0, |number, byte| number * 10 + u64::from(byte));
        let mut random = Random::new(seed.wrapping_mul(1_000) + identifier);
        let mood = random.below(MOODS.len());
        let users = USERS[..3 + random.below(6)].to_vec();
        let room = Room { seed, version, events: Vec::new(), rejected: Vec::new(), merges: Vec::new() };
        Self { random, room, room_id: "!room:one".to_owned(), mood, clock: 1_000, users }
    }

    fn creation(&mut self) -> Tip {
        let mut content = json!({"room_version": self.room.version.identifier});
        if self.room.version.auth.creator_in_content {
            content["creator"] = json!("@a:one");
        }
        if self.room.version.auth.infinite_creators && self.random.one_in(3) {
            content["additional_creators"] = json!([self.random.pick(&USERS)]);
        }
        let mut tip = Tip { state: Rc::default(), last: Vec::new() };
        assert!(self.add(&mut tip, &Draft::of_room("m.room.create", "@a:one", content)));
        self.room_id = self.room.events[0].room_id().to_owned();
        assert!(self.add(&mut tip, &Draft::member("@a:one", "@a:one", json!({"membership": "join"}))));
        tip
    }

    /// The events with which a room begins, mostly.
    fn begin(&mut self) -> Tip {
        let mut tip = self.creation();
        if !self.random.one_in(10) {
            let mut content = json!({"users": {"@b:one": self.level(), "@c:two": self.level()}});
            if !self.room.version.auth.infinite_creators {
                content["users"]["@a:one"] = json!(100);
            } else if let Some(other) = self.room.events[0].content().get("additional_creators") {
                let named: Json = serde_json::from_slice(&other.to_bytes()).unwrap();
                content["users"].as_object_mut().unwrap().remove(named[0].as_str().unwrap());
            }
            self.add(&mut tip, &Draft::of_room("m.room.power_levels", "@a:one", content));
        }
        let rule = self.random.pick(&RULES);
        // Always there: what holds without it the specification does not say.
        let rules = Draft::of_room("m.room.join_rules", "@a:one", json!({"join_rule": rule}));
        assert!(self.add(&mut tip, &rules));
        for _ in 0..self.random.below(8) {
            let draft = self.draft(&tip.state, Deed::Join);
            self.add(&mut tip, &draft);
        }
        tip
    }

    /// As `begin`, the same for all seeds and open to all.
    fn begin_open(&mut self) -> Tip {
        let mut tip = self.creation();
        let mut content = json!({"users": {"@b:one": 75, "@c:two": 50}});
        if !self.room.version.auth.infinite_creators {
            content["users"]["@a:one"] = json!(100);
        }
        self.add(&mut tip, &Draft::of_room("m.room.power_levels", "@a:one", content));
        self.add(&mut tip, &Draft::of_room("m.room.join_rules", "@a:one", json!({"join_rule": "public"})));
        for user in ["@b:one", "@c:two"] {
            self.add(&mut tip, &Draft::member(user, user, json!({"membership": "join"})));
        }
        tip
    }

    /// Let somebody do something there. Where it is not allowed, nothing happens.
    fn attempt(&mut self, tip: &Tip) -> Tip {
        let mut next = tip.clone();
        for _ in 0..4 {
            let mood = MOODS[if self.random.one_in(4) { 0 } else { self.mood }];
            let total: usize = mood.iter().map(|(_, weight)| weight).sum();
            let mut chosen = self.random.below(total);
            let mut deed = Deed::Join;
            for (candidate, weight) in mood {
                deed = *candidate;
                if chosen < *weight {
                    break;
                }
                chosen -= weight;
            }
            let draft = self.draft(&tip.state, deed);
            if self.add(&mut next, &draft) {
                break;
            }
        }
        next
    }

    fn current(&self, state: &State, kind: &str, state_key: &str) -> Option<&Event> {
        state.get(&(kind.to_owned(), state_key.to_owned())).map(|event| &*self.room.events[*event])
    }

    fn joined(&self, state: &State) -> Vec<&'static str> {
        let is_joined = |user: &&'static str| {
            self.current(state, "m.room.member", user).and_then(Event::membership) == Some("join")
        };
        self.users.iter().copied().filter(is_joined).collect()
    }

    fn level(&mut self) -> Json {
        let level = self.random.pick(&LEVELS);
        if self.room.version.auth.string_power_levels && self.random.one_in(10) {
            json!(level.to_string())
        } else {
            json!(level)
        }
    }

    fn power(&mut self, state: &State, sender: &'static str) -> Draft {
        let current = self.current(state, "m.room.power_levels", "");
        let mut content: Json = current
            .map_or_else(|| json!({}), |event| serde_json::from_slice(&event.content().to_bytes()).unwrap());
        for _ in 0..=self.random.below(2) {
            match self.random.below(6) {
                0 => {
                    let fields =
                        ["users_default", "events_default", "state_default", "ban", "kick", "invite"];
                    content[self.random.pick(&fields)] = self.level();
                }
                1 => {
                    let types =
                        ["m.room.name", "m.room.power_levels", "m.room.join_rules", "m.room.tombstone"];
                    content["events"][self.random.pick(&types)] = self.level();
                }
                2 => {
                    let user = self.random.pick(&self.users);
                    if let Some(users) = content["users"].as_object_mut() {
                        users.remove(user);
                    }
                }
                _ => {
                    let user = self.random.pick(&self.users);
                    content["users"][user] = self.level();
                }
            }
        }
        // The oracles look at every part of it, the rules only at those that they name.
        for map in ["users", "events"] {
            if !content[map].is_object() {
                content[map] = json!({});
            }
        }
        Draft::of_room("m.room.power_levels", sender, content)
    }

    fn name(&mut self, sender: &'static str) -> Draft {
        let (kind, key) = self.random.pick(&[
            ("m.room.name", "name"),
            ("m.room.topic", "topic"),
            ("m.room.topic", "topic"),
            ("m.room.avatar", "url"),
        ]);
        let number = self.random.below(1_000_000);
        Draft::of_room(kind, sender, json!({ key: number.to_string() }))
    }

    fn draft(&mut self, state: &State, deed: Deed) -> Draft {
        let user = self.random.pick(&self.users);
        let other = self.random.pick(&self.users);
        let joined = self.joined(state);
        let member =
            if joined.is_empty() || self.random.one_in(10) { user } else { self.random.pick(&joined) };
        // Those who may do more than others, and therefore do.
        let first = self.users.len().min(3);
        let moderator = if self.random.one_in(4) { member } else { self.random.pick(&self.users[..first]) };
        match deed {
            Deed::Join => {
                let mut content = json!({"membership": "join"});
                let rule = self.current(state, "m.room.join_rules", "");
                let rule = rule.and_then(|event| event.content().get_str("join_rule"));
                if rule.is_some_and(|rule| rule.ends_with("restricted")) && !self.random.one_in(4) {
                    content["join_authorised_via_users_server"] = json!(moderator);
                }
                if self.random.one_in(2) {
                    content["displayname"] = json!(self.random.below(1_000_000).to_string());
                }
                Draft::member(user, user, content)
            }
            Deed::Leave => Draft::member(member, member, json!({"membership": "leave"})),
            Deed::Invite => Draft::member(member, other, json!({"membership": "invite"})),
            Deed::Knock => Draft::member(user, user, json!({"membership": "knock"})),
            Deed::Kick => Draft::member(moderator, other, json!({"membership": "leave"})),
            Deed::Ban => Draft::member(moderator, other, json!({"membership": "ban"})),
            Deed::Power => self.power(state, moderator),
            Deed::Rules => {
                let rule = self.random.pick(&RULES);
                let mut draft = Draft::of_room("m.room.join_rules", moderator, json!({"join_rule": rule}));
                if self.random.one_in(25) {
                    draft.state_key.push_str("odd");
                }
                draft
            }
            Deed::Name => self.name(moderator),
            Deed::Tombstone => {
                Draft::of_room("m.room.tombstone", moderator, json!({"replacement_room": "!next:one"}))
            }
            Deed::Other => {
                let number = self.random.below(1_000_000);
                let state_key = match self.random.below(3) {
                    0 => moderator.to_owned(),
                    1 => "key".to_owned(),
                    _ => String::new(),
                };
                if self.random.one_in(4) {
                    let server = moderator.split_once(':').unwrap().1.to_owned();
                    let content = json!({"aliases": [number.to_string()]});
                    return Draft { kind: "m.room.aliases", sender: moderator, state_key: server, content };
                }
                Draft {
                    kind: "org.example.state",
                    sender: moderator,
                    state_key,
                    content: json!({"n": number}),
                }
            }
        }
    }

    /// Make the event of a draft, and if it is allowed, let the tip be after it.
    fn add(&mut self, tip: &mut Tip, draft: &Draft) -> bool {
        let version = self.room.version;
        let content = parse_object(draft.content.to_string().as_bytes(), version.numbers).unwrap();
        let keys = auth_event_keys(version, draft.kind, draft.sender, Some(&draft.state_key), &content);
        let cited: Vec<usize> = keys
            .into_iter()
            .filter_map(|(kind, key)| tip.state.get(&(kind.to_owned(), key)).copied())
            .collect();
        let references = |events: &[usize]| -> Json {
            let reference = |event: &usize| {
                let event_id = self.room.events[*event].event_id();
                if version.references_are_pairs {
                    json!([event_id, {"sha256": "x"}])
                } else {
                    json!(event_id)
                }
            };
            events.iter().map(reference).collect()
        };
        let depth = 1 + tip.last.iter().map(|event| self.room.events[*event].depth()).max().unwrap_or(0);
        let signature = json!({"ed25519:1": "c2ln"});
        // Clocks that stand still, and some that are wrong.
        if !self.random.one_in(3) {
            self.clock += 1;
        }
        let skew = if self.random.one_in(8) { i64::try_from(self.random.below(20)).unwrap() } else { 0 };
        let mut pdu = json!({
            "type": draft.kind, "sender": draft.sender, "state_key": draft.state_key, "content": draft.content,
            "depth": depth, "origin_server_ts": self.clock - skew,
            "prev_events": references(&tip.last), "auth_events": references(&cited),
            "hashes": {"sha256": "eA"},
            "signatures": {"one": signature, "two": signature, "three:8448": signature},
        });
        if version.event_id_format == EventIdFormat::InEvent {
            let number = self.random.below(1 << 40);
            pdu["event_id"] = json!(format!("${number:010x}:{}", draft.sender.split_once(':').unwrap().1));
        }
        if draft.kind != "m.room.create" || !version.room_id_is_create_hash {
            pdu["room_id"] = json!(self.room_id);
        }
        let event = Event::parse(pdu.to_string().as_bytes(), version, None).unwrap();
        let create = self.room.events.first().map(|event| &**event);
        let find = |kind: &str, key: &str| self.current(&tip.state, kind, key);
        if check_state_auth(&event, &find, AuthContext { create, rejected: None }).is_err() {
            return false;
        }
        let number = self.room.events.len();
        // An event that is made twice, at the same time by the same person, is one event.
        if self.room.events.iter().rev().take(40).any(|other| other.event_id() == event.event_id()) {
            return false;
        }
        // Now and then a server did not think so, but had the event in a state nevertheless. No join rules: what holds
        // without them the specification does not say.
        let spared = matches!(draft.kind, "m.room.create" | "m.room.join_rules");
        if !spared && self.room.seed.is_multiple_of(6) && self.random.one_in(12) {
            self.room.rejected.push(event.event_id().to_owned());
        }
        self.room.events.push(Rc::new(event));
        Rc::make_mut(&mut tip.state).insert((draft.kind.to_owned(), draft.state_key.clone()), number);
        tip.last = vec![number];
        true
    }

    fn merge(&mut self, tips: &[Tip]) -> Tip {
        let states: Vec<State> = tips.iter().map(|tip| State::clone(&tip.state)).collect();
        let events: Vec<&Event> = self.room.events.iter().map(|event| &**event).collect();
        let entries: Vec<_> = states.iter().map(|state| self.room.entries(state)).collect();
        let rejected: Vec<&str> = self.room.rejected.iter().map(String::as_str).collect();
        let resolution =
            resolve_states(self.room.version, self.room.create(), &entries, &events, &rejected).unwrap();
        let mut state = states[0].clone();
        for other in &states[1..] {
            state.extend(other.clone());
        }
        let numbers: HashMap<&str, usize> =
            self.room.events.iter().enumerate().map(|(number, event)| (event.event_id(), number)).collect();
        for decision in &resolution.decisions {
            let pair = (decision.kind.to_owned(), decision.state_key.to_owned());
            match decision.event_id {
                Some(event_id) => _ = state.insert(pair, numbers[event_id]),
                None => _ = state.remove(&pair),
            }
        }
        let mut last: Vec<usize> = tips.iter().flat_map(|tip| tip.last.clone()).collect();
        last.sort_unstable();
        last.dedup();
        self.room.merges.push(states);
        if !state.contains_key(&("m.room.join_rules".to_owned(), String::new())) {
            // It happens that a room loses them; but see `add`.
            return tips[0].clone();
        }
        Tip { state: Rc::new(state), last }
    }
}
