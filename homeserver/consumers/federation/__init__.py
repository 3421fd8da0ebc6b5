"""Sends other servers what they are to have (server-server API, Transactions; docs/decisions/0013-outbound.md).

The way of an event: `news` follows the log and asks `audiences` whom each new event concerns; `recipients` has the
servers, with what each is to have next (`pending`) and how far it has got (`progress`), and `turns` whose turn it is.
`packing` makes a transaction of it, with the help of `missed` for a server that lacks much; `contents` reads what is
in it, and `deliveries` sends it. `outcomes` keeps how it went, `bisection` finds what it is that a server does not
take, and `ledger` writes it down. `sender` joins them, `start` goes on where another process ended; `backlog` bounds
the data that waits, `upkeep` does what else has to be done from time to time, and `gauges` show it all.

What a server is to have is not stored for it: it follows from a position up to which it has everything, and from when
it was in which room. So a server that is down costs a timer, and no memory or statement for what it misses.

All of this is one task group in one event loop: between two awaits nobody else changes a recipient.
"""
