"""Rooms: making them, writing events into them, and reading them.

The modules by what they are about; each of these groups uses those above it.

- A room in memory: `hot`, `room_state`, `state` (trees), `states`, `power`, `placement` (what is handed to the writer).
- Where an event stands: `graph`, with `verdicts` (is it allowed), `resolution` (of branches), `redactions`.
- Writing: `author` makes events of ours, `persist` and `record` write all events, `send` is what people say. `merge`
  and `ends` tie up branches, `policy` asks policy servers (`refusals` are told on), `server_acl` keeps servers out.
- Events from elsewhere: `inbox`, with `checks`, `signatures`, `event_ids`, `founding`, `intake`, `admission`, `turns`,
  `waiting`, `outliers`, `loose_ends`; `receipts` tells what became of them.
- What is missing: `gaps` and `gap_filling` between events; `backfill`, `past`, `past_plan`, `past_runs` before them;
  `askable`, `searches`, `state_requests`, `states_elsewhere` for both.
- Coming from elsewhere: `arrival`, `join_answers`, `landing`; the rest of a room known in part by `completion`,
  `replay`, `unproven`; who waits for it, by `partial`.
- Reading: `read`, `visibility`, `stays`, `client_events`, `relations`, `nearest`, `auth_chain`.
- Finding: `directory`, `directories_elsewhere`, `hierarchy`, `spaces_elsewhere`, `summaries`, `glance`; `conditions`
  says who comes into restricted rooms.
- Memberships: `members`, `joining`, `guests`, `member_content`, `succession`; through other servers `remote_members`,
  `signed_elsewhere`; for other servers' users `resident`, `invitations`, `third_party`, `stripped`.
- Making and ending rooms: `create`, `upgrade`, `state_events`, `purge`, `history_purge`, `room_purge`.
- For operators: `consistency`, `room_check`, `findings` (fsck); `excerpt`, `drawing` (pictures of a room's graph).
"""
