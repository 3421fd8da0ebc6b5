//! Push rules: which of a user's rules an event meets (client-server API, "Push Rules"); and the other user of glob
//! patterns, the servers that a room lets in.

mod acl;
mod glob;
mod path;
mod rules;

pub use acl::ServerAcl;
pub use glob::{Glob, fold};
pub use path::{Found, Path};
pub use rules::{Occasion, Rule, Ruleset};
