//! Which servers a room lets in (client-server API, `m.room.server_acl`).

use std::net::{Ipv4Addr, Ipv6Addr};

use canonical::{Object, Value};

use crate::glob::{Glob, fold};

/// The content of an `m.room.server_acl` event, ready to be asked.
pub struct ServerAcl {
    allow_ip_literals: bool,
    allow: Vec<Glob>,
    deny: Vec<Glob>,
}

impl ServerAcl {
    /// What is of the wrong type counts as if it was not there.
    pub fn new(content: &Object) -> Self {
        let globs = |name: &str| match content.get(name) {
            Some(Value::Array(items)) => items
                .iter()
                .filter_map(|item| if let Value::String(text) = item { Some(Glob::new(text)) } else { None })
                .collect(),
            _ => Vec::new(),
        };
        Self {
            allow_ip_literals: !matches!(content.get("allow_ip_literals"), Some(Value::Bool(false))),
            allow: globs("allow"),
            deny: globs("deny"),
        }
    }

    /// Whether the server may take part; its port does not matter.
    pub fn allows(&self, server_name: &str) -> bool {
        let host = fold(host_of(server_name));
        let is_met = |globs: &[Glob]| globs.iter().any(|glob| glob.matches_all(&host));
        // "If the server name is an IP address literal, and `allow_ip_literals` is present and `false`, deny."
        if !self.allow_ip_literals && is_ip_literal(&host) {
            return false;
        }
        // "If the server name matches an entry in the `deny` list, deny", "in the `allow` list, allow. Otherwise, deny."
        !is_met(&self.deny) && is_met(&self.allow)
    }
}

/// The name without its port.
fn host_of(server_name: &str) -> &str {
    match server_name.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') && !port.is_empty() => host,
        _ => server_name,
    }
}

fn is_ip_literal(host: &str) -> bool {
    let inner = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    host.parse::<Ipv4Addr>().is_ok() || inner.is_some_and(|inner| inner.parse::<Ipv6Addr>().is_ok())
}

#[cfg(test)]
mod tests {
    use canonical::{Numbers, parse_object};

    use super::ServerAcl;

    fn acl(content: &str) -> ServerAcl {
        ServerAcl::new(&parse_object(content.as_bytes(), Numbers::Lenient).expect("JSON"))
    }

    #[test]
    fn the_deny_list_goes_before_the_allow_list() {
        let acl = acl(r#"{"allow": ["*"], "deny": ["evil.com", "*.evil.com", "b?d.org"]}"#);
        assert!(acl.allows("good.com"));
        for name in ["evil.com", "evil.com:8448", "EVIL.com", "a.evil.com", "bad.org", "Bad.Org:1"] {
            assert!(!acl.allows(name), "{name}");
        }
    }

    #[test]
    fn without_an_allow_list_nobody_is_let_in() {
        assert!(!acl(r"{}").allows("good.com"));
        assert!(!acl(r#"{"allow": "*"}"#).allows("good.com"));
        assert!(acl(r#"{"allow": [1, "*"], "deny": {}}"#).allows("good.com"));
    }

    #[test]
    fn addresses_can_be_kept_out() {
        let acl = acl(r#"{"allow": ["*"], "allow_ip_literals": false}"#);
        for name in ["1.2.3.4", "1.2.3.4:8448", "[::1]", "[::1]:8448"] {
            assert!(!acl.allows(name), "{name}");
        }
        assert!(acl.allows("1.2.3.4.example"));
    }

    #[test]
    fn only_false_keeps_addresses_out() {
        assert!(acl(r#"{"allow": ["*"], "allow_ip_literals": "false"}"#).allows("[::1]:8448"));
        assert!(acl(r#"{"allow": ["[::1]"]}"#).allows("[::1]:8448"));
    }
}
