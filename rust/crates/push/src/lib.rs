//! Push rules: which of a user's rules an event meets (client-server API, "Push Rules").

mod glob;
mod path;
mod rules;

pub use glob::{Glob, fold};
pub use path::{Found, Path};
pub use rules::{Occasion, Rule, Ruleset};
