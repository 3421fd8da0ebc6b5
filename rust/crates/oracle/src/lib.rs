//! Our events in the form in which the Ruma crates take them. Only tests depend on this crate.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "it is part of tests, which end so")]

use canonical::Event;
use ruma_common::{
    EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UserId,
};
use ruma_events::TimelineEventType;
use serde_json::value::RawValue;

/// An event as the oracle wants it.
#[derive(Clone)]
pub struct TheirEvent {
    pub event_id: OwnedEventId,
    room_id: Option<OwnedRoomId>,
    sender: OwnedUserId,
    pub kind: TimelineEventType,
    pub content: Box<RawValue>,
    pub state_key: Option<String>,
    prev_events: Vec<OwnedEventId>,
    auth_events: Vec<OwnedEventId>,
    origin_server_ts: MilliSecondsSinceUnixEpoch,
    redacts: Option<OwnedEventId>,
    rejected: bool,
}

impl TheirEvent {
    /// Panics where theirs is the narrower grammar: a test has made the event.
    #[must_use]
    pub fn new(event: &Event, rejected: bool) -> Self {
        let origin_server_ts = u32::try_from(event.origin_server_ts()).unwrap();
        let ids = |ids: &[String]| ids.iter().map(|id| EventId::parse(id).unwrap()).collect();
        Self {
            event_id: EventId::parse(event.event_id()).unwrap(),
            room_id: event.has_room_id().then(|| RoomId::parse(event.room_id()).unwrap()),
            sender: UserId::parse(event.sender()).unwrap(),
            kind: event.kind().into(),
            content: RawValue::from_string(String::from_utf8(event.content().to_bytes()).unwrap()).unwrap(),
            state_key: event.state_key().map(str::to_owned),
            prev_events: ids(event.prev_events()),
            auth_events: ids(event.auth_events()),
            origin_server_ts: MilliSecondsSinceUnixEpoch(origin_server_ts.into()),
            redacts: event.redacts().map(|id| EventId::parse(id).unwrap()),
            rejected,
        }
    }
}

impl ruma_state_res::Event for TheirEvent {
    type Id = OwnedEventId;

    fn event_id(&self) -> &OwnedEventId {
        &self.event_id
    }

    fn room_id(&self) -> Option<&RoomId> {
        self.room_id.as_deref()
    }

    fn sender(&self) -> &UserId {
        &self.sender
    }

    fn origin_server_ts(&self) -> MilliSecondsSinceUnixEpoch {
        self.origin_server_ts
    }

    fn event_type(&self) -> &TimelineEventType {
        &self.kind
    }

    fn content(&self) -> &RawValue {
        &self.content
    }

    fn state_key(&self) -> Option<&str> {
        self.state_key.as_deref()
    }

    fn prev_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.prev_events.iter())
    }

    fn auth_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.auth_events.iter())
    }

    fn redacts(&self) -> Option<&OwnedEventId> {
        self.redacts.as_ref()
    }

    fn rejected(&self) -> bool {
        self.rejected
    }
}
